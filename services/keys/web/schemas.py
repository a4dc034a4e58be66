"""Requests and responses of the API and the forms, as marshmallow schemas."""

from typing import Any, ClassVar

import msgspec
from marshmallow import ValidationError, fields, post_load, validate, validates_schema

from services.keys.commands import NewKey
from services.keys.model.key import MAX_GRACE_SECONDS, STATUSES, ChangeKey, Key
from services.keys.read_model.criteria import NEWEST_FIRST, SORTS, Criteria
from services.keys.read_model.cursor import NO_CURSOR, PATTERN, parse_cursor
from services.keys.web.fields import (
    LONGEST,
    Cursor,
    StrictBoolean,
    description_field,
    expires_at_field,
    name_field,
    reason_field,
    scopes_field,
)
from shared.clock import now_ms
from shared.eventstore.codec import PRESENT_FORMS
from shared.eventstore.payload import KEY_SUBJECT, to_json
from shared.web.schemas import (
    ActorSchema,
    AfterSchema,
    AnswerSchema,
    LimitSchema,
    PageSchema,
    PointInTimeField,
    RequestSchema,
    StrictSchema,
    Timestamp,
    WholeNumber,
    about,
    kind_of_actor,
    next_cursor,
)

_SEARCH_LENGTH = 100
_KEY_EVENTS = tuple(name for name, form in PRESENT_FORMS.items() if KEY_SUBJECT in form.SUBJECTS)
_CHANGEABLE = ("enabled", "name", "description", "scopes", "expires_at")


class NewKeySchema(StrictSchema):
    """`POST /v1/keys`, and the form of Create API Key."""

    name = name_field(required=True)
    description = description_field(load_default="")
    scopes = scopes_field(load_default=list)
    expires_at = expires_at_field("null or left out", load_default=None)

    @post_load
    def _new_key(self, data: dict[str, Any], **_: Any) -> NewKey:
        return NewKey(**data | {"scopes": tuple(dict.fromkeys(data["scopes"]))})


class KeyChangeSchema(StrictSchema):
    """A change of a key, and the switch on the pages. What is left out stays as it is."""

    enabled = fields.Boolean(
        truthy={True, "true"},
        falsy={False, "false"},
        error_messages={"invalid": "It must be true or false."},
        metadata=about("true switches the key on, false off.", example=False),
    )
    name = name_field()
    description = description_field()
    scopes = scopes_field()
    expires_at = expires_at_field("null")
    reason = reason_field("Why")

    @validates_schema(skip_on_field_errors=True)
    def _changes_something(self, data: dict[str, Any], **_: Any) -> None:
        if not data.keys() & set(_CHANGEABLE):
            raise ValidationError(f"Say what to change: {', '.join(_CHANGEABLE)}.", "enabled")

    @post_load
    def _change(self, data: dict[str, Any], **_: Any) -> ChangeKey:
        if "scopes" in data:
            data["scopes"] = tuple(dict.fromkeys(data["scopes"]))
        return ChangeKey(**data)


class KeyPatchSchema(KeyChangeSchema):
    """What to change of a key. What is left out stays as it is."""

    json_schema: ClassVar[dict[str, Any]] = {"anyOf": [{"required": [name]} for name in _CHANGEABLE]}

    enabled = StrictBoolean(
        error_messages={"invalid": "It must be true or false."},
        metadata=about("true switches the key on, false off.", example=False),
    )


class RotationSchema(StrictSchema):
    """How a key gets a new secret."""

    grace_seconds = WholeNumber(
        strict=True,
        load_default=0,
        validate=validate.Range(0, MAX_GRACE_SECONDS, error="It must be from {min} to {max}."),
        error_messages={"invalid": "It must be a whole number."},
        metadata=about(
            "How long the old secret stays good beside the new one: 30 days at most, and never longer than "
            "it would have been.",
            3600,
        ),
    )


class RevocationSchema(StrictSchema):
    """`DELETE /v1/keys/{id}?reason=`."""

    reason = reason_field("Why the key is revoked")


class KeySchema(AnswerSchema):
    """An API key, without its secret."""

    id = fields.String(metadata=about("Its name for good; a rotation keeps it.", "3fA9bQ27LmZ0"))
    name = fields.String(metadata=about("What people call it.", "Data Sync Script"))
    description = fields.String(metadata=about("What it is for.", "Copies orders every night"))
    hint = fields.String(
        metadata=about("The part of the secret that may be shown, to tell keys apart.", "kl_3fA9…x7Qz")
    )
    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata=about("Only an `active` key is good. `revoked` is for ever.", "active"),
    )
    enabled = fields.Boolean(metadata=about("Whether the key is enabled.", example=True))
    scopes = fields.List(fields.String(), metadata=about("What its bearer may do.", ["orders:read"]))
    created_at = Timestamp(metadata=about("When it came to be.", "2026-11-23T18:59:21.123Z"))
    created_by = fields.String(metadata=about("Who created it.", "ann@example.org"))
    created_by_kind = kind_of_actor("Whether that is a person, a key or the operator.")
    updated_at = Timestamp(metadata=about("When it last changed.", "2026-11-23T18:59:21.123Z"))
    expires_at = Timestamp(
        allow_none=True, metadata=about("When it ends; null: never.", "2031-01-01T00:00:00.000Z")
    )
    version = fields.Integer(metadata=about("Counts its events; the ETag has it too.", 1))


class NewSecretSchema(KeySchema):
    """A key with its secret, this once; in the answer to a repeated request, with a notice instead."""

    sometimes = frozenset({"api_key", "notice"})

    api_key = fields.String(
        metadata=about(
            "The whole key, in this one answer. Keep it where programs keep secrets.",
            "kl_3fA9bQ27LmZ0…x7Qz",
        )
    )
    notice = fields.String(metadata=about("In a repeated answer: where the key went."))


class KeyQuerySchema(AfterSchema):
    """`GET /v1/keys/{id}?at=&after=`."""

    at = PointInTimeField(
        load_default=None,
        metadata=about(
            "Show the key as it was then: a time up to now, or a position of the ledger.",
            "2026-11-23T18:59:21.123Z",
            anyOf=[{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 1}],
        ),
    )


class ListQuerySchema(AfterSchema, LimitSchema):
    """`GET /v1/keys?search=&status=&sort=&limit=&cursor=&after=`."""

    search = fields.String(
        load_default="",
        validate=validate.Length(max=_SEARCH_LENGTH, error=LONGEST),
        metadata=about(
            "The beginning of any word of the name, in any case; of several words, each must be one. "
            "Or a whole id. Never a key itself: it would stand in an address.",
            "sync",
        ),
    )
    status = fields.String(
        load_default=None,
        validate=validate.OneOf(STATUSES, error="It is one of {choices}."),
        metadata=about("Only keys that are so now.", "active"),
    )
    sort = fields.String(
        load_default=NEWEST_FIRST,
        validate=validate.OneOf(SORTS, error="It is one of {choices}."),
        metadata=about(
            "By which column; a `-` turns it round. By `name` passes over case and punctuation. By `status` "
            "gives active, expired, inactive, revoked, each newest first."
        ),
    )
    cursor = Cursor(
        load_default=None,
        metadata=about(
            "Where to go on: `next_cursor` of the page before, with the same `sort`.",
            type="string",
            pattern=PATTERN,
        ),
    )

    @post_load
    def _query(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        criteria = Criteria(data.pop("search"), data.pop("status"), data.pop("sort"))
        if data["cursor"] is not None and parse_cursor(data["cursor"]).sort != criteria.sort:
            raise ValidationError(NO_CURSOR, "cursor")
        return data | {"criteria": criteria}


class HistoryQuerySchema(PageSchema):
    """`GET /v1/keys/{id}/history?limit=&cursor=`."""


class KeyListSchema(AnswerSchema):
    """A page of keys. It may be short, even empty, and still have more behind it: follow `next_cursor`."""

    keys = fields.List(fields.Nested(KeySchema))
    next_cursor = next_cursor()


class EventSchema(AnswerSchema):
    """An event of a key's history."""

    id = fields.String(metadata=about("Its name.", "0e8a7c52b1f94e0c9d3f1a5b7c6d2e4f"))
    position = fields.Integer(metadata=about("Where it is in the ledger.", 17))
    version = fields.Integer(metadata=about("The version of the key that it made.", 2))
    type = fields.String(validate=validate.OneOf(_KEY_EVENTS), metadata=about("What happened.", "KeyToggled"))
    schema = fields.Integer(metadata=about("The form of `data`, which a type may have several of.", 2))
    at = Timestamp(metadata=about("When, by the ledger's clock.", "2026-11-23T18:59:21.123Z"))
    actor = fields.Nested(ActorSchema)
    request = fields.Nested(RequestSchema)
    data = fields.Function(
        lambda event: to_json(event.data),
        metadata=about(
            "The facts, by the type of the event.", {"enabled": False, "reason": "leaked"}, type="object"
        ),
    )


class HistorySchema(AnswerSchema):
    """A page of a key's history, oldest first."""

    events = fields.List(fields.Nested(EventSchema))
    next_cursor = next_cursor()


def presented(key: Key, at: int | None = None) -> dict[str, Any]:
    """A key with its status at a time in ms, or now, for schemas and templates."""
    now = now_ms()
    return msgspec.structs.asdict(key) | {"status": key.status(now if at is None else at)}
