"""What the schemas of all services have in common: times, paging, headers, and who did what by which call.

They are also what the description of the interface is made of: `about` says what a field means.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, get_args

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validate

from shared.clock import parse_rfc3339, rfc3339
from shared.eventstore.envelope import ActorKind
from shared.eventstore.point_in_time import PointInTime, PointInTimeError, parse_point_in_time
from shared.text.characters import invalid_text, trimmed
from shared.text.key_detection import holds_key, refusal

_CURSOR = "Use next_cursor of the previous page."
_POSITION = "It must be a position of the ledger."
_MAX_POSITION = 2**53
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_ENTITY_TAG = r'(?:W/)?"[!#-~\x80-\xff]*"'  # by RFC 9110
_ENTITY_TAGS = re.compile(rf"[, \t]*{_ENTITY_TAG}(?:[ \t]*,[, \t]*{_ENTITY_TAG})*[, \t]*")
_VERSION = re.compile(r'(?:W/)?"([0-9]{1,15})"')
IDEMPOTENCY_KEY_LENGTH = 255
ACTOR_KINDS: tuple[ActorKind, ...] = get_args(ActorKind)


def about(description: str, example: Any = None, **rules: Any) -> dict[str, Any]:
    """The metadata of a field, for the description of the interface; `rules` are JSON Schema's."""
    return {"description": description, **rules} | ({} if example is None else {"examples": [example]})


class Text(fields.String):
    """Text in any script. Spaces at the ends are removed, and invisible characters are rejected."""

    def __init__(self, *, lines: bool = False, **kwargs: Any) -> None:
        messages = {"invalid": "It must be a string."} | kwargs.pop("error_messages", {})
        super().__init__(error_messages=messages, **kwargs)
        self._lines = lines

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs).replace("\r\n", "\n").strip()
        if reason := invalid_text(text, lines=self._lines):
            raise ValidationError(reason)
        text = trimmed(text, lines=self._lines)
        if holds_key(text):
            raise ValidationError(refusal("It", text))
        return text


class Timestamp(fields.Field[int]):
    """RFC 3339 outside, milliseconds inside."""

    def _serialize(self, value: int | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else rfc3339(value)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        try:
            return parse_rfc3339(value)
        except ValueError as error:
            raise ValidationError(str(error)) from error


class PointInTimeField(fields.Field[PointInTime]):
    """A point in time: a time, or a position of the ledger."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> PointInTime:
        try:
            return parse_point_in_time(value)
        except PointInTimeError as error:
            raise ValidationError(str(error)) from error


class WholeNumber(fields.Integer):
    """A whole number of a JSON body, where a text is none."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if isinstance(value, str):
            raise self.make_error("invalid")
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON does not tell 1.0 from 1
        return super()._deserialize(value, attr, data, **kwargs)


class WrittenNumber(fields.Integer):
    """A whole number of a query or a header, in plain digits."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if not _WHOLE.fullmatch(str(value)):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class StrictSchema(Schema):
    """Refuses fields that it does not know, so that a misspelt one is not passed over."""

    class Meta:
        unknown = RAISE


class AnswerSchema(Schema):
    """What a call gives. Every field is always there, but for those in `sometimes`."""

    sometimes: ClassVar[frozenset[str]] = frozenset()

    class Meta:
        unknown = EXCLUDE  # callers must not rely on there being no more fields

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """What marshmallow calls with each field."""
        field_obj.required = field_name not in self.sometimes


class NoQuerySchema(StrictSchema):
    """A call that takes no arguments in its address."""


def position(**kwargs: Any) -> fields.Integer:
    """A field of a position of the ledger, 0 where it is not given."""
    return WrittenNumber(
        load_default=0,
        validate=validate.Range(0, _MAX_POSITION, error=_POSITION),
        error_messages={"invalid": _POSITION},
        **kwargs,
    )


class AfterSchema(StrictSchema):
    """`?after=`."""

    after = position(
        metadata=about("Waits until the views have reached this position, like the header X-Ledger-Position.")
    )


class PositionHeaderSchema(Schema):
    """What the answer to a command gave, sent back with a read."""

    ledger_position = position(
        data_key="X-Ledger-Position",
        metadata=about(
            "The X-Ledger-Position of the response to a command. This request waits for up to 2 s until its "
            "response includes that command. If it doesn't, the response has X-Ledger-Behind."
        ),
    )


class IfMatchSchema(Schema):
    """The versions that the caller expects."""

    if_match = fields.String(
        data_key="If-Match",
        load_default="*",
        metadata=about(
            "The ETag of the version that you read, or several ETags separated by commas. If the key has "
            "another version, nothing changes, and the response is 412. A weak ETag "
            '(`W/"3"`), as gateways send after compressing, counts as the strong one.',
            '"3"',
            pattern=r'^(\*|(W/)?"[0-9]+"(, (W/)?"[0-9]+")*)$',
        ),
    )

    @post_load
    def _versions(self, data: dict[str, Any], **_: Any) -> dict[str, frozenset[int] | None]:
        """None, if any will do. Entity tags that aren't ours name no version, so they never match."""
        tags = data["if_match"].strip()
        if tags == "*":
            return {"if_match": None}
        if not _ENTITY_TAGS.fullmatch(tags):
            raise ValidationError(
                "It must be a quoted ETag, a comma-separated list of them, or *.", "If-Match"
            )
        return {"if_match": frozenset(map(int, _VERSION.findall(tags)))}


class IdempotencySchema(Schema):
    """The caller's own name for a request, by which a repetition is known."""

    idempotency_key = fields.String(
        data_key="Idempotency-Key",
        load_default=None,
        validate=validate.Regexp(
            rf"[!-~]{{1,{IDEMPOTENCY_KEY_LENGTH}}}\Z",
            error=f"Use 1 to {IDEMPOTENCY_KEY_LENGTH} printable ASCII characters without spaces.",
        ),
        metadata=about(
            "Your ID for this request, such as a random UUID. Within 24 hours, repeating the request with "
            "this ID has no further effect and returns the same result. Another request with it returns 422.",
            "8f14e45f-ceea-467f-9a0b-3d5f1c2e7a90",
            pattern=rf"^[!-~]{{1,{IDEMPOTENCY_KEY_LENGTH}}}$",
        ),
    )


class LimitSchema(StrictSchema):
    """`?limit=`."""

    limit = WrittenNumber(
        load_default=50,
        validate=validate.Range(1, 200, error="It must be from {min} to {max}."),
        error_messages={"invalid": "It must be a whole number."},
        metadata=about("The maximum number of items on a page."),
    )


class PageSchema(LimitSchema):
    """`?limit=&cursor=`."""

    cursor = WrittenNumber(
        load_default=None,
        validate=validate.Range(1, _MAX_POSITION, error=_CURSOR),
        error_messages={"invalid": _CURSOR},
        metadata=about("`next_cursor` of the previous page."),
    )


def kind_of_actor(what: str, **kwargs: Any) -> fields.String:
    """A field of the kind of an actor; `what` says of which."""
    return fields.String(
        validate=validate.OneOf(ACTOR_KINDS, error="Use one of {choices}."),
        metadata=about(
            f"{what} `account` is someone who signed in, `key` an API key, `operator` the command line, and "
            "`anonymous` a caller that didn't authenticate.",
            "account",
        ),
        **kwargs,
    )


def next_cursor() -> fields.String:
    """The cursor of the next page."""
    return fields.String(
        allow_none=True,
        metadata=about("Send it as `cursor` to get the next page. It is null on the last page.", "17"),
    )


class ActorSchema(AnswerSchema):
    """The actor of an event."""

    kind = fields.String(
        allow_none=True,
        metadata=about(
            "`account` is someone who signed in, `key` an API key, `operator` the command line, and "
            "`anonymous` a caller that didn't authenticate.",
            "account",
        ),
    )
    id = fields.String(allow_none=True, metadata=about("The ID of the actor.", "ann@example.org"))
    label = fields.String(allow_none=True, metadata=about("The name to display.", "ann@example.org"))


class RequestSchema(AnswerSchema):
    """The request that caused an event."""

    id = fields.String(allow_none=True, metadata=about("The X-Request-Id of the request.", "checkout-42"))
    ip = fields.String(allow_none=True, metadata=about("The IP address of the client.", "192.0.2.7"))
    user_agent = fields.String(allow_none=True, metadata=about("The User-Agent of the client.", "curl/8.7.1"))


class FieldErrorSchema(AnswerSchema):
    """An error in one field."""

    field = fields.String(metadata=about("The field; an item of a list is `scopes.0`.", "name"))
    message = fields.String(metadata=about("What to change.", "Use up to 100 characters."))


class ProblemSchema(AnswerSchema):
    """Why a request failed, and what to do next (RFC 9457)."""

    sometimes = frozenset({"errors"})

    type = fields.String(
        metadata=about(
            "The section on this error in the documentation.",
            "/docs/problems#invalid_fields",
            format="uri-reference",
        )
    )
    code = fields.String(metadata=about("The stable code of the error.", "invalid_fields"))
    title = fields.String(metadata=about("The code in words.", "Invalid fields"))
    status = fields.Integer(metadata=about("The HTTP status."))
    detail = fields.String(metadata=about("What went wrong, and what to do next."))
    request_id = fields.String(
        metadata=about("The ID of the request. Include it when you report the error.", "checkout-42")
    )
    errors = fields.List(fields.Nested(FieldErrorSchema), metadata=about("The fields to fix."))


def field_errors(messages: object, path: str = "") -> Iterator[dict[str, str]]:
    """marshmallow's nested messages, one row a message; a list's items are named `scopes.0`."""
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            yield from field_errors(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(messages, Sequence) and not isinstance(messages, str):
        for message in messages:
            yield from field_errors(message, path)
    else:
        yield {"field": path, "message": str(messages)}
