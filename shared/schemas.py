"""What the schemas of all services have in common: times, paging, and who did what by which call."""

from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from shared.timestamps import parse_rfc3339, rfc3339

_CURSOR = "Take it from next_cursor of the page before."


class Timestamp(fields.Field[int]):
    """RFC 3339 outside, milliseconds inside."""

    def _serialize(self, value: int | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else rfc3339(value)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        try:
            return parse_rfc3339(value)
        except ValueError as error:
            raise ValidationError(str(error)) from error


class StrictSchema(Schema):
    """Refuses fields that it does not know, so that a misspelt one is not passed over."""

    class Meta:
        unknown = RAISE


class PageSchema(StrictSchema):
    """`?limit=&cursor=`."""

    limit = fields.Integer(
        load_default=50,
        validate=validate.Range(1, 200, error="It must be from {min} to {max}."),
        error_messages={"invalid": "It must be a whole number."},
    )
    cursor = fields.Integer(
        load_default=None,
        validate=validate.Range(1, 2**53, error=_CURSOR),
        error_messages={"invalid": _CURSOR},
    )


class ActorSchema(Schema):
    """Who did it."""

    kind = fields.String(allow_none=True)
    id = fields.String(allow_none=True)
    label = fields.String(allow_none=True)


class RequestSchema(Schema):
    """By what call."""

    id = fields.String(allow_none=True)
    ip = fields.String(allow_none=True)
    user_agent = fields.String(allow_none=True)
