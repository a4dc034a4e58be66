"""Schemas of the forensics endpoints and pages."""

from typing import Any

from marshmallow import ValidationError, fields, validate

from services.audit.web.schemas import EntrySchema
from shared.clock import typed_in_utc
from shared.eventstore.point_in_time import PointInTime
from shared.forensics import PAST_CODES, SECRET_STANDINGS
from shared.web.schemas import (
    AnswerSchema,
    PointInTimeField,
    StrictSchema,
    Timestamp,
    about,
    kind_of_actor,
    next_cursor,
)

NOT_A_KEY = "This isn't a Keyledger API key, or it was mistyped or cut off. Copy the whole key."
_AT = "2026-11-23T18:59:21.123Z"
_NO_ID = "Enter a key ID. You find it in the key's details."
_NO_TIME = "Enter a time."
_NOT_A_TOKEN = "Send the key to look up, as text."  # noqa: S105  # a message, not a secret


class TypedPointInTime(PointInTimeField):
    """Also takes a time from a form field, in UTC: `2026-11-23T18:59`."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> PointInTime:
        return super()._deserialize(typed_in_utc(value), *args, **kwargs)


class ScopeList(fields.String):
    """Scopes separated by commas or spaces, as for forward-auth."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        scopes = super()._deserialize(value, *args, **kwargs).replace(",", " ").split()
        if not scopes:
            raise ValidationError("It is empty. Set a value or leave it out.")
        return scopes


class VerdictQuerySchema(StrictSchema):
    """`GET /v1/audit/verdict?key_id=&at=&scopes=`."""

    key_id = fields.String(
        required=True,
        validate=validate.Length(min=1, error=_NO_ID),
        error_messages={"required": _NO_ID},
        metadata=about("The key's ID.", "3fA9bQ27LmZ0"),
    )
    at = PointInTimeField(
        required=True,
        error_messages={"required": _NO_TIME},
        metadata=about(
            "A time in the past, or a position of the ledger.",
            _AT,
            anyOf=[{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 1}],
        ),
    )
    scopes = ScopeList(
        load_default=tuple,
        metadata=about("The scopes that the key needed, separated by commas or spaces.", "orders:read"),
    )


class TypedVerdictSchema(VerdictQuerySchema):
    """The same, as the page's form sends it."""

    at = TypedPointInTime(required=True)


class PastKeySchema(AnswerSchema):
    """The key at that point in time."""

    id = fields.String(metadata=about("The key's ID.", "3fA9bQ27LmZ0"))
    name = fields.String(metadata=about("Its name.", "Data Sync Script"))
    scopes = fields.List(fields.String(), metadata=about("Its scopes.", ["orders:read"]))
    expires_at = Timestamp(allow_none=True, metadata=about("When it was to expire, or null if never.", _AT))
    enabled = fields.Boolean(metadata=about("Whether it was enabled.", example=True))
    revoked = fields.Boolean(metadata=about("Whether it was revoked.", example=False))


class CauseSchema(AnswerSchema):
    """The event that decided the verdict. For a key that didn't exist yet, its later creation."""

    position = fields.Integer(metadata=about("Its position in the ledger and the audit log.", 17))
    at = Timestamp(metadata=about("When it happened, by the ledger's clock.", _AT))
    type = fields.String(metadata=about("The type of the event.", "KeyToggled"))
    actor = fields.String(metadata=about("Who caused it.", "ann@example.org"))
    actor_kind = kind_of_actor("The kind of actor.")


class PastVerdictSchema(AnswerSchema):
    """Whether a key would have been accepted at a point in time, and why."""

    valid = fields.Boolean(metadata=about("Whether it would have been accepted.", example=False))
    code = fields.String(
        validate=validate.OneOf(PAST_CODES),
        metadata=about("The reason. `NOT_FOUND` means that the key was created later.", "DISABLED"),
    )
    words = fields.String(
        metadata=about(
            "The verdict in words.", "No: ann@example.org disabled it at 2026-11-23 18:59:21.123 UTC."
        )
    )
    at = Timestamp(metadata=about("The point in time.", _AT))
    key = fields.Nested(PastKeySchema, allow_none=True)
    cause = fields.Nested(CauseSchema)
    earlier_secret_until = Timestamp(
        allow_none=True,
        metadata=about(
            "Until when the secret before the last rotation was accepted too, or null if it wasn't.",
            _AT,
        ),
    )


class LeakLookupSchema(StrictSchema):
    """`POST /v1/audit/lookup`."""

    api_key = fields.String(
        required=True,
        error_messages={"required": _NOT_A_TOKEN, "null": _NOT_A_TOKEN, "invalid": _NOT_A_TOKEN},
        metadata=about("The whole key, as you found it.", "kl_3fA9bQ27LmZ0…x7Qz"),
    )


class SecretSchema(AnswerSchema):
    """Which of the key's secrets it is."""

    standing = fields.String(
        validate=validate.OneOf(SECRET_STANDINGS),
        metadata=about(
            "`present` is the current secret, `grace` one that was rotated but is still accepted, and "
            "`replaced` one that is no longer accepted.",
            "present",
        ),
    )
    since = Timestamp(metadata=about("When the secret was created.", _AT))
    replaced_at = Timestamp(
        allow_none=True, metadata=about("When it was rotated, or null if it is the current secret.", _AT)
    )
    good_until = Timestamp(
        allow_none=True, metadata=about("When it stops being accepted, or null if it doesn't expire.", _AT)
    )


class FoundKeySchema(AnswerSchema):
    """The key that the secret belongs to, and its current state."""

    id = fields.String(metadata=about("The key's ID.", "3fA9bQ27LmZ0"))
    name = fields.String(metadata=about("Its name.", "Data Sync Script"))
    workspace = fields.String(metadata=about("Its workspace.", "default"))
    created_at = Timestamp(metadata=about("When the key was created.", _AT))
    created_by = fields.String(metadata=about("Who created it.", "ann@example.org"))
    created_by_kind = kind_of_actor("The kind of actor.")
    expires_at = Timestamp(allow_none=True, metadata=about("When it expires, or null if never.", _AT))
    status = fields.String(metadata=about("`active`, `inactive`, `expired` or `revoked`.", "active"))
    secret = fields.Nested(SecretSchema)
    good = fields.Boolean(metadata=about("Whether the secret that you sent is accepted now.", example=True))


class DayOfUseSchema(AnswerSchema):
    """A day, in UTC, on which the key was used."""

    date = fields.String(metadata=about("The day.", "2026-11-23", format="date"))
    accepted = fields.Integer(metadata=about("How often it was accepted.", 1204))
    refused = fields.Integer(metadata=about("How often it was rejected.", 3))
    reasons = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata=about("How often it was rejected, by the code of the verdict.", {"DISABLED": 3}),
    )


class KeyUseSchema(AnswerSchema):
    """The use of the key in the last 30 days, with any of its secrets; newest first."""

    last_used_at = Timestamp(allow_none=True, metadata=about("When it was last used, or null if never.", _AT))
    days = fields.List(fields.Nested(DayOfUseSchema))


class FoundSchema(AnswerSchema):
    """The key that was looked up, its use, and the entries that it caused, newest first."""

    key = fields.Nested(FoundKeySchema)
    use = fields.Nested(KeyUseSchema)
    entries = fields.List(fields.Nested(EntrySchema))
    next_cursor = next_cursor()
