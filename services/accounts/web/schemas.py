"""The forms of the account pages, as marshmallow schemas."""

from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from services.accounts.model.account import EMAIL_LENGTH
from services.accounts.passwords import PASSWORD_MAX_LENGTH
from shared.identity import ROLES
from shared.web.schemas import Text

REASON_LENGTH = 500
_NO_EMAIL = "Enter your e-mail address."
_NO_PASSWORD = "Enter your password."  # noqa: S105  # a message


class _FormSchema(Schema):
    """A form, which ignores unknown fields."""

    class Meta:
        unknown = EXCLUDE  # the CSRF token and where to go next


def _email(missing: str) -> fields.String:
    return fields.String(
        required=True,
        validate=[
            validate.Regexp(r"\s*\S", error=missing),
            validate.Length(max=EMAIL_LENGTH, error="Use up to {max} characters."),
        ],
        error_messages={"required": missing},
    )


def _password(missing: str) -> fields.String:
    return fields.String(
        required=True,
        validate=[
            validate.Length(min=1, error=missing),
            validate.Length(max=PASSWORD_MAX_LENGTH, error="Use up to {max:,} characters."),
        ],
        error_messages={"required": missing},
    )


def _role() -> fields.String:
    return fields.String(
        required=True,
        validate=validate.OneOf(list(ROLES), error="Choose a role."),
        error_messages={"required": "Choose a role."},
    )


class SignInSchema(_FormSchema):
    """The form to sign in. Whether the password is correct isn't checked here."""

    email = _email(_NO_EMAIL)
    password = _password(_NO_PASSWORD)


class NewAccountSchema(_FormSchema):
    """The form that adds an account."""

    email = _email("Enter the e-mail address of the account.")
    role = _role()


class RoleSchema(_FormSchema):
    """The form that changes a role."""

    role = _role()


class ReasonSchema(_FormSchema):
    """The form that disables an account."""

    reason = Text(
        load_default="",
        validate=validate.Length(max=REASON_LENGTH, error="Use up to {max} characters."),
    )


class PasswordChangeSchema(_FormSchema):
    """The form that changes your own password."""

    current_password = _password("Enter your current password.")
    password = _password("Enter the new password.")
    repeated = fields.String(load_default="")

    @validates_schema(skip_on_field_errors=True)
    def _same(self, data: dict[str, str], **_: Any) -> None:
        if data["password"] != data["repeated"]:
            raise ValidationError({"repeated": ["The passwords don't match. Enter both again."]})
