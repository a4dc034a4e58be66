"""What the API and the forms take and give, as marshmallow schemas."""

import re
import time
import unicodedata
from typing import Any

import msgspec
from marshmallow import Schema, ValidationError, fields, post_load, validate

from services.keys.commands import NewKey
from services.keys.domain import Key, ChangeKey
from services.keys.moments import Moment, MomentError, parse_moment
from shared.events import Event
from shared.identity import OWN_PREFIX, SCOPES
from shared.schemas import ActorSchema, PageSchema, RequestSchema, StrictSchema, Timestamp
from shared.timestamps import rfc3339

NAME_LENGTH = 100
DESCRIPTION_LENGTH = 500
_SCOPE = re.compile(r"[a-z0-9][a-z0-9._:-]{0,99}")
_SCOPES_MOST = 50
_LINES = frozenset("\n\t")


class Text(fields.String):
    """Text as people type it, in any script: blanks at the ends go, what no page can show is refused."""

    def __init__(self, *, lines: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._allowed = _LINES if lines else frozenset()

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs).replace("\r\n", "\n").strip()
        for character in text:
            if unicodedata.category(character) in {"Cc", "Cs"} and character not in self._allowed:
                raise ValidationError(f"It may not contain the control character U+{ord(character):04X}.")
        return text


def _check_scopes(scopes: list[str]) -> None:
    for scope in scopes:
        if not _SCOPE.fullmatch(scope):
            raise ValidationError(
                f"{scope!r} is no scope: it has lower-case letters, digits and . _ : - inside, 100 at most."
            )
        if scope.startswith(OWN_PREFIX) and scope not in SCOPES:
            raise ValidationError(f"{scope!r} is unknown; Keyledger's own are {', '.join(SCOPES)}.")


def _in_future(at: int) -> None:
    if at <= time.time() * 1000:
        raise ValidationError("It must be in the future.")


class NewKeySchema(StrictSchema):
    """`POST /v1/keys`, and the form of Create API Key."""

    name = Text(
        required=True,
        validate=[
            validate.Length(min=1, error="Enter a name; it may not be empty."),
            validate.Length(max=NAME_LENGTH, error="It may have {max} characters at most."),
        ],
        error_messages={"required": "Enter a name.", "invalid": "It must be a text."},
    )
    description = Text(
        lines=True,
        load_default="",
        validate=validate.Length(max=DESCRIPTION_LENGTH, error="It may have {max} characters at most."),
        error_messages={"invalid": "It must be a text."},
    )
    scopes = fields.List(
        fields.String(),
        load_default=list,
        validate=[
            validate.Length(max=_SCOPES_MOST, error="It may have {max} scopes at most."),
            _check_scopes,
        ],
    )
    expires_at = Timestamp(load_default=None, allow_none=True, validate=_in_future)

    @post_load
    def _new_key(self, data: dict[str, Any], **_: Any) -> NewKey:
        return NewKey(**data | {"scopes": tuple(dict.fromkeys(data["scopes"]))})


class KeyChangeSchema(StrictSchema):
    """`PATCH /v1/keys/{id}`, and the switch on the pages."""

    enabled = fields.Boolean(
        required=True,
        truthy={True, "true"},
        falsy={False, "false"},
        error_messages={
            "required": "Say true to switch the key on, false to switch it off.",
            "invalid": "It must be true or false.",
        },
    )
    reason = Text(
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=DESCRIPTION_LENGTH, error="It may have {max} characters at most."),
    )

    @post_load
    def _toggle(self, data: dict[str, Any], **_: Any) -> ChangeKey:
        return ChangeKey(**data)


class KeySchema(Schema):
    """A key as the API gives it; `api_key` only in the answer that makes it."""

    id = fields.String()
    name = fields.String()
    description = fields.String()
    hint = fields.String()
    status = fields.String()
    enabled = fields.Boolean()
    scopes = fields.List(fields.String())
    created_at = Timestamp()
    created_by = fields.String()
    updated_at = Timestamp()
    expires_at = Timestamp()
    version = fields.Integer()


class CreatedKeySchema(KeySchema):
    """The answer of `POST /v1/keys`."""

    api_key = fields.String(metadata={"description": "The whole key: in this one answer, never again."})
    notice = fields.String(metadata={"description": "In a repeated answer: where the key went."})


class AfterSchema(StrictSchema):
    """The position of the ledger that an answer must have seen: what the header X-Ledger-Position gave."""

    after = fields.Integer(
        load_default=0,
        validate=validate.Range(0, 2**53, error="It must be a position of the ledger."),
        error_messages={"invalid": "It must be a position of the ledger."},
    )


class MomentField(fields.Field[Moment]):
    """A moment of the past: a time, or a position of the ledger."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Moment:
        try:
            return parse_moment(value)
        except MomentError as error:
            raise ValidationError(str(error)) from error


class KeyQuerySchema(AfterSchema):
    """`GET /v1/keys/{id}?at=&after=`."""

    at = MomentField(
        load_default=None,
        metadata={
            "description": "Show the key as it was then: an RFC 3339 time, or a position of the ledger.",
            "type": "string",
        },
    )


class ListQuerySchema(AfterSchema, PageSchema):
    """`GET /v1/keys?limit=&cursor=&after=`."""


class HistoryQuerySchema(PageSchema):
    """`GET /v1/keys/{id}/history?limit=&cursor=`."""


class KeyListSchema(Schema):
    """A page of keys."""

    keys = fields.List(fields.Nested(KeySchema))
    next_cursor = fields.String(allow_none=True)


class EventSchema(Schema):
    """An event of a key's history."""

    id = fields.String()
    position = fields.Integer()
    version = fields.Integer()
    type = fields.String()
    schema = fields.Integer()
    at = Timestamp()
    actor = fields.Nested(ActorSchema)
    request = fields.Nested(RequestSchema)
    data = fields.Function(lambda event: _facts(event))


class HistorySchema(Schema):
    """A page of a key's history, oldest first."""

    events = fields.List(fields.Nested(EventSchema))
    next_cursor = fields.String(allow_none=True)


def _facts(event: Event) -> dict[str, Any]:
    """An event's data, its times and its absent reason as everywhere in the API."""
    facts: dict[str, Any] = msgspec.to_builtins(event.data)
    if facts.get("reason") == "":
        facts["reason"] = None
    if facts.get("expires_at") is not None:
        facts["expires_at"] = rfc3339(facts["expires_at"])
    return facts


def presented(key: Key, at: int | None = None) -> dict[str, Any]:
    """A key with its status at a time in ms, or at this moment, as schemas and templates take it."""
    now = time.time_ns() // 1_000_000
    return msgspec.structs.asdict(key) | {"status": key.status(now if at is None else at)}
