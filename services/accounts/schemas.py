"""What the forms take, as marshmallow schemas."""

from marshmallow import EXCLUDE, Schema, fields, validate

from services.accounts.credentials import PASSWORD_MAX_LENGTH
from services.accounts.domain import EMAIL_LENGTH

_NO_EMAIL = "Enter your e-mail address."
_NO_PASSWORD = "Enter your password."  # noqa: S105  # a message


class SignInSchema(Schema):
    """The form of Sign in; whether address and password are good is not for a schema to say."""

    class Meta:
        unknown = EXCLUDE  # the CSRF token and where to go next

    email = fields.String(
        required=True,
        validate=[
            validate.Regexp(r"\s*\S", error=_NO_EMAIL),
            validate.Length(max=EMAIL_LENGTH, error="It may have {max} characters at most."),
        ],
        error_messages={"required": _NO_EMAIL},
    )
    password = fields.String(
        required=True,
        validate=[
            validate.Length(min=1, error=_NO_PASSWORD),
            validate.Length(max=PASSWORD_MAX_LENGTH, error="It may have {max:,} characters at most."),
        ],
        error_messages={"required": _NO_PASSWORD},
    )
