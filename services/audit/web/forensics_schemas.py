"""What the inquiries into keys take and give, as marshmallow schemas."""

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

NOT_A_KEY = "This is no Keyledger API key, or it was mistyped or cut off. Copy the whole key."
_AT = "2026-11-23T18:59:21.123Z"
_NO_ID = "Enter the id of a key, which Keys' Details tells."
_NO_MOMENT = "Enter a time."
_NOT_A_TOKEN = "Send the key to be looked up, a text."  # noqa: S105  # words, and no secret


class TypedPointInTime(PointInTimeField):
    """The same, and a time as a form's field gives it, in UTC: `2026-11-23T18:59`."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> PointInTime:
        return super()._deserialize(typed_in_utc(value), *args, **kwargs)


class ScopeList(fields.String):
    """Scopes as forward-auth takes them."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        scopes = super()._deserialize(value, *args, **kwargs).replace(",", " ").split()
        if not scopes:
            raise ValidationError("It is empty. Give it a value or leave it out.")
        return scopes


class VerdictQuerySchema(StrictSchema):
    """`GET /v1/audit/verdict?key_id=&at=&scopes=`."""

    key_id = fields.String(
        required=True,
        validate=validate.Length(min=1, error=_NO_ID),
        error_messages={"required": _NO_ID},
        metadata=about("Which key.", "3fA9bQ27LmZ0"),
    )
    at = PointInTimeField(
        required=True,
        error_messages={"required": _NO_MOMENT},
        metadata=about(
            "When: a time up to now, or a position of the ledger.",
            _AT,
            anyOf=[{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 1}],
        ),
    )
    scopes = ScopeList(
        load_default=tuple,
        metadata=about("The scopes that the key had to hold, separated by commas or spaces.", "orders:read"),
    )


class TypedVerdictSchema(VerdictQuerySchema):
    """The same, as the page's form sends it."""

    at = TypedPointInTime(required=True)


class PastKeySchema(AnswerSchema):
    """A key as it was."""

    id = fields.String(metadata=about("Its name for good.", "3fA9bQ27LmZ0"))
    name = fields.String(metadata=about("What people called it.", "Data Sync Script"))
    scopes = fields.List(fields.String(), metadata=about("What its bearer might do.", ["orders:read"]))
    expires_at = Timestamp(allow_none=True, metadata=about("When it was to end; null: never.", _AT))
    enabled = fields.Boolean(metadata=about("Whether the key was enabled.", example=True))
    revoked = fields.Boolean(metadata=about("Whether it was revoked.", example=False))


class CauseSchema(AnswerSchema):
    """The event that decided it; of a key that was not there yet, its creation, which came later."""

    position = fields.Integer(metadata=about("Where it is in the ledger, and in the audit log.", 17))
    at = Timestamp(metadata=about("When, by the ledger's clock.", _AT))
    type = fields.String(metadata=about("What happened.", "KeyToggled"))
    actor = fields.String(metadata=about("Who did it.", "ann@example.org"))
    actor_kind = kind_of_actor("Whether that is a person, a key or the operator.")


class PastVerdictSchema(AnswerSchema):
    """What would have been said of a key at a moment."""

    valid = fields.Boolean(metadata=about("Whether it would have been accepted.", example=False))
    code = fields.String(
        validate=validate.OneOf(PAST_CODES),
        metadata=about("What was so; NOT_FOUND: the key was created later.", "DISABLED"),
    )
    words = fields.String(
        metadata=about(
            "The same in words.", "No: ann@example.org disabled it at 2026-11-23 18:59:21.123 UTC."
        )
    )
    at = Timestamp(metadata=about("The moment, by the clock.", _AT))
    key = fields.Nested(PastKeySchema, allow_none=True)
    cause = fields.Nested(CauseSchema)
    earlier_secret_until = Timestamp(
        allow_none=True,
        metadata=about(
            "Until when the secret before the last rotation was good too; null: there was none that was.", _AT
        ),
    )


class LeakLookupSchema(StrictSchema):
    """`POST /v1/audit/lookup`."""

    api_key = fields.String(
        required=True,
        error_messages={"required": _NOT_A_TOKEN, "null": _NOT_A_TOKEN, "invalid": _NOT_A_TOKEN},
        metadata=about("The whole key, as it was found.", "kl_3fA9bQ27LmZ0…x7Qz"),
    )


class SecretSchema(AnswerSchema):
    """Which of the key's secrets it is."""

    standing = fields.String(
        validate=validate.OneOf(SECRET_STANDINGS),
        metadata=about(
            "The `present` one, one before it that is still in its `grace`, or one that was `replaced`.",
            "present",
        ),
    )
    since = Timestamp(metadata=about("Since when it was good.", _AT))
    replaced_at = Timestamp(
        allow_none=True, metadata=about("When a rotation replaced it; null: it is the present one.", _AT)
    )
    good_until = Timestamp(
        allow_none=True, metadata=about("When its time ends or ended; null: it has no end.", _AT)
    )


class FoundKeySchema(AnswerSchema):
    """Whose secret it is, and how the key stands now."""

    id = fields.String(metadata=about("Which key it is.", "3fA9bQ27LmZ0"))
    name = fields.String(metadata=about("What people call it.", "Data Sync Script"))
    workspace = fields.String(metadata=about("Whose it is.", "default"))
    created_at = Timestamp(metadata=about("When the key came to be.", _AT))
    created_by = fields.String(metadata=about("Who created it.", "ann@example.org"))
    created_by_kind = kind_of_actor("Whether that is a person, a key or the operator.")
    expires_at = Timestamp(allow_none=True, metadata=about("When it ends; null: never.", _AT))
    status = fields.String(metadata=about("active, inactive, expired or revoked.", "active"))
    secret = fields.Nested(SecretSchema)
    good = fields.Boolean(metadata=about("Whether the secret that you sent is accepted now.", example=True))


class DayOfUseSchema(AnswerSchema):
    """A day in UTC that the key was used on."""

    date = fields.String(metadata=about("The day.", "2026-11-23", format="date"))
    accepted = fields.Integer(metadata=about("How often it was accepted.", 1204))
    refused = fields.Integer(metadata=about("How often it was refused.", 3))
    reasons = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata=about("Why it was refused, by the code of the verdict.", {"DISABLED": 3}),
    )


class KeyUseSchema(AnswerSchema):
    """How the key was used in the last 30 days, with whichever of its secrets; newest first."""

    last_used_at = Timestamp(allow_none=True, metadata=about("When it was last used; null: never.", _AT))
    days = fields.List(fields.Nested(DayOfUseSchema))


class FoundSchema(AnswerSchema):
    """What is known of a key that was looked up, and what it did as a caller, newest first."""

    key = fields.Nested(FoundKeySchema)
    use = fields.Nested(KeyUseSchema)
    entries = fields.List(fields.Nested(EntrySchema))
    next_cursor = next_cursor()
