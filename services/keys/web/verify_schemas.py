"""Requests and responses of verify and usage, as marshmallow schemas."""

from marshmallow import fields, validate

from services.keys.verification.usage import KEPT_DAYS
from services.keys.verification.verifier import CODES
from services.keys.web.fields import MAX_SCOPES
from shared.web.schemas import AnswerSchema, StrictSchema, Timestamp, WrittenNumber, about

_NOT_A_TOKEN = "Send the key to be verified, a text."  # noqa: S105  # words, and no secret


class VerifySchema(StrictSchema):
    """`POST /v1/keys/verify`."""

    api_key = fields.String(
        required=True,
        error_messages={"required": _NOT_A_TOKEN, "null": _NOT_A_TOKEN, "invalid": _NOT_A_TOKEN},
        metadata=about("The whole key, as its bearer presents it.", "kl_3fA9bQ27LmZ0…x7Qz"),
    )
    scopes = fields.List(
        fields.String(),
        load_default=list,
        validate=validate.Length(max=MAX_SCOPES, error="It may have {max} scopes at most."),
        metadata=about("What the key has to hold, each as it is written in the key.", ["orders:read"]),
    )


class VerdictSchema(AnswerSchema):
    """What is said of a key; all but `valid`, `code` and `position` only where it was found."""

    sometimes = frozenset({"key_id", "name", "workspace", "scopes", "expires_at"})

    valid = fields.Boolean(metadata=about("Whether the key is good for what was asked.", example=True))
    code = fields.String(validate=validate.OneOf(CODES), metadata=about("What is so.", "VALID"))
    position = fields.Integer(
        metadata=about("The verdict is at least as new as this position of the ledger.", 17),
    )
    key_id = fields.String(metadata=about("Which key it is.", "3fA9bQ27LmZ0"))
    name = fields.String(metadata=about("What people call it.", "Data Sync Script"))
    workspace = fields.String(metadata=about("Whose it is.", "default"))
    scopes = fields.List(fields.String(), metadata=about("What its bearer may do.", ["orders:read"]))
    expires_at = Timestamp(
        allow_none=True, metadata=about("When it ends; null: never.", "2031-01-01T00:00:00.000Z")
    )


class UsageQuerySchema(StrictSchema):
    """`GET /v1/keys/{id}/usage?days=`."""

    days = WrittenNumber(
        load_default=30,
        validate=validate.Range(1, KEPT_DAYS, error="It must be from {min} to {max}."),
        error_messages={"invalid": "It must be a whole number."},
        metadata=about("How many days back."),
    )


class DaySchema(AnswerSchema):
    """How often a key was given which verdict on a day in UTC."""

    date = fields.String(metadata=about("The day.", "2026-11-23", format="date"))
    counts = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata=about("How often, by the code of the verdict.", {"VALID": 1204, "DISABLED": 3}),
    )


class UsageSchema(AnswerSchema):
    """When a key was last used, and its days that have counts, newest first."""

    last_used_at = Timestamp(
        allow_none=True, metadata=about("When it was last good; null: never.", "2026-11-23T18:59:21.123Z")
    )
    days = fields.List(fields.Nested(DaySchema))
