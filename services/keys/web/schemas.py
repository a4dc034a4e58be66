"""Requests and responses of the API and the forms, as marshmallow schemas."""

from typing import Any, ClassVar

import msgspec
from marshmallow import ValidationError, fields, missing, post_load, validate, validates_schema

from services.keys.model.key import MAX_GRACE_SECONDS, STATUSES, ChangeKey, Key
from services.keys.read_model.criteria import NEWEST_FIRST, SORTS, Criteria
from services.keys.read_model.cursor import NO_CURSOR, PATTERN, parse_cursor
from services.keys.web.fields import LONGEST, Cursor, KeyDetailsFields, StrictBoolean, reason_field
from shared.clock import now_ms
from shared.eventstore.codec import PRESENT_FORMS
from shared.eventstore.events import KeyDetails
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
_DETAILS = KeyDetails.__struct_fields__
_CHANGEABLE = ("enabled", *_DETAILS)
_ENABLED: dict[str, Any] = {
    "error_messages": {"invalid": "It must be true or false."},
    "metadata": about("Whether the key is enabled.", example=False),
}
_TIME = "2026-11-23T18:59:21.123Z"


class NewKeySchema(KeyDetailsFields, StrictSchema):
    """`POST /v1/keys`, and the form of Create API Key."""

    @post_load
    def _details(self, data: dict[str, Any], **_: Any) -> KeyDetails:
        return KeyDetails(**data)


class KeyChangeSchema(KeyDetailsFields, StrictSchema):
    """A change of a key, and the switch on the pages. Fields that are left out don't change."""

    enabled = fields.Boolean(truthy={True, "true"}, falsy={False, "false"}, **_ENABLED)
    reason = reason_field("The reason")

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Makes every field optional. marshmallow calls this with each field."""
        field_obj.required = False
        if field_name in _DETAILS:
            field_obj.load_default = missing

    @validates_schema(skip_on_field_errors=True)
    def _changes_something(self, data: dict[str, Any], **_: Any) -> None:
        if not data.keys() & set(_CHANGEABLE):
            raise ValidationError(f"Set at least one of {', '.join(_CHANGEABLE)}.", "enabled")

    @post_load
    def _change(self, data: dict[str, Any], **_: Any) -> ChangeKey:
        details = {name: data.pop(name) for name in _DETAILS if name in data}
        return ChangeKey(details=details, **data)


class KeyPatchSchema(KeyChangeSchema):
    """What to change. Fields that you leave out don't change."""

    json_schema: ClassVar[dict[str, Any]] = {"anyOf": [{"required": [name]} for name in _CHANGEABLE]}

    enabled = StrictBoolean(**_ENABLED)


class RotationSchema(StrictSchema):
    """How to rotate a key."""

    grace_seconds = WholeNumber(
        strict=True,
        load_default=0,
        validate=validate.Range(0, MAX_GRACE_SECONDS, error="It must be from {min} to {max}."),
        error_messages={"invalid": "It must be a whole number."},
        metadata=about(
            "How many seconds the old secret stays valid along with the new one: up to 30 days, but not "
            "beyond the key's expiry.",
            3600,
        ),
    )


class RevocationSchema(StrictSchema):
    """`DELETE /v1/keys/{id}?reason=`."""

    reason = reason_field("The reason for the revocation")


class _KeyIdSchema(AnswerSchema):
    id = fields.String(metadata=about("The permanent ID of the key. A rotation keeps it.", "3fA9bQ27LmZ0"))


class KeySchema(KeyDetailsFields, _KeyIdSchema):
    """An API key, without its secret."""

    hint = fields.String(
        metadata=about("The beginning and the end of the key, to recognize it.", "kl_3fA9…x7Qz")
    )
    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata=about("Only an `active` key is valid. `revoked` is permanent.", "active"),
    )
    enabled = fields.Boolean(metadata=about("Whether the key is enabled.", example=True))
    created_at = Timestamp(metadata=about("When the key was created.", _TIME))
    created_by = fields.String(metadata=about("Who created the key.", "ann@example.org"))
    created_by_kind = kind_of_actor("The kind of actor that created the key.")
    updated_at = Timestamp(metadata=about("When the key last changed.", _TIME))
    version = fields.Integer(metadata=about("The number of the key's events. It is also the ETag.", 1))

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Drops the rules for requests: a stored key may be older than they are."""
        super().on_bind_field(field_name, field_obj)
        if field_name in _DETAILS:
            field_obj.validators = []
            field_obj.load_default = missing
            rules = ("description", "examples")
            field_obj.metadata = {name: field_obj.metadata[name] for name in rules}
            if isinstance(field_obj, fields.List):
                field_obj.inner.metadata = {}


class NewSecretSchema(KeySchema):
    """A key with its secret, this once; in the answer to a repeated request, with a notice instead."""

    sometimes = frozenset({"api_key", "notice"})

    api_key = fields.String(
        metadata=about(
            "The whole key. It is returned only once: store it in a secrets manager.",
            "kl_3fA9bQ27LmZ0…x7Qz",
        )
    )
    notice = fields.String(
        metadata=about(
            "Replaces `api_key` in the response to a repeated request, and says where the key was."
        )
    )


class KeyQuerySchema(AfterSchema):
    """`GET /v1/keys/{id}?at=&after=`."""

    at = PointInTimeField(
        load_default=None,
        metadata=about(
            "Returns the key as it was at this point in time: a time up to now, or a ledger position.",
            _TIME,
            anyOf=[{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 1}],
        ),
    )


class ListQuerySchema(AfterSchema, LimitSchema):
    """`GET /v1/keys?search=&status=&sort=&limit=&cursor=&after=`."""

    search = fields.String(
        load_default="",
        validate=validate.Length(max=_SEARCH_LENGTH, error=LONGEST),
        metadata=about(
            "The beginning of one or more words of the name, in any case, or a whole ID. "
            "Don't search for a key itself: it would be part of the URL.",
            "sync",
        ),
    )
    status = fields.String(
        load_default=None,
        validate=validate.OneOf(STATUSES, error="Use one of {choices}."),
        metadata=about("Returns only keys with this status.", "active"),
    )
    sort = fields.String(
        load_default=NEWEST_FIRST,
        validate=validate.OneOf(SORTS, error="Use one of {choices}."),
        metadata=about(
            "The column to sort by; `-` reverses the order. `name` ignores case and punctuation. `status` "
            "sorts as active, expired, inactive, revoked, each newest first."
        ),
    )
    cursor = Cursor(
        load_default=None,
        metadata=about(
            "`next_cursor` of the previous page, with the same `sort`.",
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
    """A page of keys. It can be short or even empty and still not be the last one: follow `next_cursor`."""

    keys = fields.List(fields.Nested(KeySchema))
    next_cursor = next_cursor()


class EventSchema(AnswerSchema):
    """An event of a key's history."""

    id = fields.String(metadata=about("The ID of the event.", "0e8a7c52b1f94e0c9d3f1a5b7c6d2e4f"))
    position = fields.Integer(metadata=about("The position of the event in the ledger.", 17))
    version = fields.Integer(metadata=about("The version of the key after the event.", 2))
    type = fields.String(
        validate=validate.OneOf(_KEY_EVENTS), metadata=about("The type of the event.", "KeyToggled")
    )
    schema = fields.Integer(metadata=about("The schema version of `data`.", 2))
    at = Timestamp(metadata=about("When the event happened, by the ledger's clock.", _TIME))
    actor = fields.Nested(ActorSchema)
    request = fields.Nested(RequestSchema)
    data = fields.Function(
        lambda event: to_json(event.data),
        metadata=about(
            "The payload, depending on the type of the event.",
            {"enabled": False, "reason": "leaked"},
            type="object",
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
