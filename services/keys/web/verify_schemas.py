"""Requests and responses of verify and usage, as marshmallow schemas."""

from marshmallow import fields, validate

from services.keys.verification.usage import KEPT_DAYS
from services.keys.verification.verifier import CODES
from services.keys.web.fields import MAX_SCOPES
from shared.web.schemas import AnswerSchema, StrictSchema, Timestamp, WrittenNumber, about

_NOT_A_TOKEN = "Send the key to verify, as a string."  # noqa: S105  # words, and no secret


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
        validate=validate.Length(max=MAX_SCOPES, error="Use up to {max} scopes."),
        metadata=about("The scopes that the key must hold, spelled as in the key.", ["orders:read"]),
    )


class VerdictSchema(AnswerSchema):
    """The verdict on a key. Only a key that was found has more than `valid`, `code` and `position`."""

    sometimes = frozenset({"key_id", "name", "workspace", "scopes", "expires_at"})

    valid = fields.Boolean(metadata=about("Whether the key is valid and holds the scopes.", example=True))
    code = fields.String(validate=validate.OneOf(CODES), metadata=about("The result.", "VALID"))
    position = fields.Integer(
        metadata=about("The verdict includes all events up to this position of the ledger.", 17),
    )
    key_id = fields.String(metadata=about("The ID of the key.", "3fA9bQ27LmZ0"))
    name = fields.String(metadata=about("The name of the key.", "Data Sync Script"))
    workspace = fields.String(metadata=about("The workspace of the key.", "default"))
    scopes = fields.List(fields.String(), metadata=about("The scopes of the key.", ["orders:read"]))
    expires_at = Timestamp(
        allow_none=True,
        metadata=about("When the key expires, or null if it doesn't.", "2031-01-01T00:00:00.000Z"),
    )


class UsageQuerySchema(StrictSchema):
    """`GET /v1/keys/{id}/usage?days=`."""

    days = WrittenNumber(
        load_default=30,
        validate=validate.Range(1, KEPT_DAYS, error="It must be from {min} to {max}."),
        error_messages={"invalid": "It must be a whole number."},
        metadata=about("The number of days to return."),
    )


class DaySchema(AnswerSchema):
    """The number of verdicts on a key by code, on a day in UTC."""

    date = fields.String(metadata=about("The day.", "2026-11-23", format="date"))
    counts = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata=about("The number of verdicts by code.", {"VALID": 1204, "DISABLED": 3}),
    )


class UsageSchema(AnswerSchema):
    """When a key was last used, and the days on which it was, newest first."""

    last_used_at = Timestamp(
        allow_none=True,
        metadata=about("When the key was last valid, or null if it never was.", "2026-11-23T18:59:21.123Z"),
    )
    days = fields.List(fields.Nested(DaySchema))
