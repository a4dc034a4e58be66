"""The fields of a key in the API and in forms, each with its rules and its description."""

import re
from collections.abc import Sequence
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from services.keys.read_model.cursor import CursorError, parse_cursor
from shared.clock import now_ms
from shared.identity import OWN_PREFIX, SCOPES
from shared.text.key_detection import resembles_key
from shared.web.schemas import Text, Timestamp, about

NAME_LENGTH = 100
DESCRIPTION_LENGTH = 500
_SCOPE = re.compile(r"[a-z0-9][a-z0-9._:-]{0,99}")
MAX_SCOPES = 50
_SHOWN_LENGTH = 50  # of a rejected scope
LONGEST = "Use up to {max} characters."

# The same rules as JSON Schema patterns, for the OpenAPI document.
_NO_CONTROLS = r"\u0000-\u001f\u007f-\u009f"
_LINE_PATTERN = rf"^[^{_NO_CONTROLS}]*[^\s{_NO_CONTROLS}][^{_NO_CONTROLS}]*$"
_LINES_PATTERN = r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f]*$"
_OWN_SCOPES = "|".join(scope.removeprefix(OWN_PREFIX).replace(".", r"\.") for scope in SCOPES)
_ONE_SCOPE = rf"({OWN_PREFIX}({_OWN_SCOPES})|(?!{OWN_PREFIX})[a-z0-9][a-z0-9._:-]{{0,99}})"
_SCOPE_PATTERN = rf"^{_ONE_SCOPE}$"
SCOPE_LIST_PATTERN = rf"^{_ONE_SCOPE}([, ]{_ONE_SCOPE}){{0,49}}$"


class StrictBoolean(fields.Boolean):
    """true or false of a JSON body, and nothing that only looks like it."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


def check_scopes(scopes: Sequence[str]) -> None:
    """Raises ValidationError, naming the first scope that no key can hold."""
    for scope in scopes:
        shown = "…" if resembles_key(scope) else scope[:_SHOWN_LENGTH]
        if not _SCOPE.fullmatch(scope):
            raise ValidationError(
                f"“{shown}” isn't a valid scope. Use up to 100 lower-case letters, digits and . _ : -"
            )
        if scope.startswith(OWN_PREFIX) and scope not in SCOPES:
            raise ValidationError(f"“{shown}” is unknown. Keyledger's own scopes are {', '.join(SCOPES)}.")


def _in_future(at: int) -> None:
    if at <= now_ms():
        raise ValidationError("It must be in the future.")


class _Scopes(fields.List[str]):
    """A list of scopes, each once."""

    def _deserialize(self, *args: Any, **kwargs: Any) -> Any:
        return tuple(dict.fromkeys(super()._deserialize(*args, **kwargs)))


class KeyDetailsFields(Schema):
    """The fields of `KeyDetails`: requests and forms read them, and responses contain them."""

    name = Text(
        required=True,
        validate=[
            validate.Length(min=1, error="Enter a name."),
            validate.Length(max=NAME_LENGTH, error=LONGEST),
        ],
        error_messages={"required": "Enter a name."},
        metadata=about("The name of the key.", "Data Sync Script", pattern=_LINE_PATTERN),
    )
    description = Text(
        lines=True,
        load_default="",
        validate=validate.Length(max=DESCRIPTION_LENGTH, error=LONGEST),
        metadata=about("What the key is for.", "Copies orders every night", pattern=_LINES_PATTERN),
    )
    scopes = _Scopes(
        fields.String(metadata={"pattern": _SCOPE_PATTERN}),
        load_default=tuple,
        validate=[validate.Length(max=MAX_SCOPES, error="Use up to {max} scopes."), check_scopes],
        metadata=about(
            "What the key can do: your platform's own scopes, and Keyledger's. "
            "You can only grant scopes that you hold.",
            ["orders:read"],
        ),
    )
    expires_at = Timestamp(
        load_default=None,
        allow_none=True,
        validate=_in_future,
        metadata=about(
            "When the key expires, or null if it doesn't. A new value must be in the future.",
            "2031-01-01T00:00:00.000Z",
        ),
    )


def reason_field(what: str) -> Text:
    """A reason; `what` names the action."""
    return Text(
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=DESCRIPTION_LENGTH, error=LONGEST),
        metadata=about(
            f"{what}, for the audit log.", "Found in a public repository", pattern=f"^[^{_NO_CONTROLS}]*$"
        ),
    )


class Cursor(fields.Field[str]):
    """The cursor of a page of the list."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        try:
            parse_cursor(str(value))
        except CursorError as error:
            raise ValidationError(str(error)) from error
        return str(value)
