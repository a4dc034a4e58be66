"""What the audit log's API and page take and give, as marshmallow schemas."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, pre_dump, pre_load, validate

from services.audit.entries import Entry, description_of, stored_event
from shared.descriptions import Change
from shared.schemas import ActorSchema, PageSchema, RequestSchema, Timestamp
from shared.timestamps import parse_rfc3339, rfc3339

_TEXT_LENGTH = 300


class Minute(Timestamp):
    """A time as a form's field gives it, in UTC: `2026-11-23T18:59`."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        try:
            return parse_rfc3339(f"{value}Z")
        except ValueError as error:
            raise ValidationError("It must be a time like 2026-11-23T18:59.") from error


def _text() -> fields.String:
    longest = validate.Length(max=_TEXT_LENGTH, error="It may have {max} characters at most.")
    return fields.String(load_default=None, validate=longest)


class QuerySchema(PageSchema):
    """`?key_id=&actor=&type=&since=&until=&q=&limit=&cursor=`; an empty one is as good as none."""

    key_id = _text()
    actor = _text()
    type = _text()
    since = Timestamp(load_default=None)
    until = Timestamp(load_default=None)
    q = _text()

    @pre_load
    def _without_empty(self, data: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        return {name: value for name, value in data.items() if value != ""}

    @post_load
    def _query(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The arguments of `Audit.page`."""
        limit, cursor = data.pop("limit"), data.pop("cursor")
        return {"criteria": data, "limit": limit, "cursor": cursor}


class PageQuerySchema(QuerySchema):
    """The same, as the page's form sends it."""

    since = Minute(load_default=None)
    until = Minute(load_default=None)


class ChangeSchema(Schema):
    """What changed. `before` is null where there was nothing before."""

    field = fields.String()
    before = fields.Raw(allow_none=True)
    after = fields.Raw(allow_none=True)


class EntrySchema(Schema):
    """An entry. What an event that this version cannot read does not tell is null."""

    position = fields.Integer()
    event_id = fields.String(allow_none=True)
    at = Timestamp()
    type = fields.String(allow_none=True)
    title = fields.String()
    key_id = fields.String(allow_none=True)
    subject = fields.String(allow_none=True)
    workspace = fields.String()
    actor = fields.Nested(ActorSchema)
    request = fields.Nested(RequestSchema)
    data = fields.Raw(metadata={"description": "The event's data as the ledger stores it."})
    changes = fields.List(fields.Nested(ChangeSchema))
    entry_hash = fields.String()
    previous_hash = fields.String()

    @pre_dump
    def _unfold(self, entry: Entry, **_: Any) -> dict[str, Any]:
        description, stored = description_of(entry), stored_event(entry)
        request = stored.get("request")
        return entry._asdict() | {
            "title": description.title,
            "changes": [_with_times(change) for change in description.changes],
            "actor": actor_of(entry),
            "request": request if isinstance(request, dict) else {},
            "data": stored.get("data"),
            "entry_hash": entry.entry_hash.hex(),
            "previous_hash": entry.previous_hash.hex(),
        }


class EntriesSchema(Schema):
    """A page of entries, newest first."""

    entries = fields.List(fields.Nested(EntrySchema))
    next_cursor = fields.String(allow_none=True)


def actor_of(entry: Entry) -> dict[str, str | None]:
    """Who did it, as far as the event tells."""
    return {"kind": entry.actor_kind, "id": entry.actor_id, "label": entry.actor_label}


def _with_times(change: Change) -> dict[str, Any]:
    return {
        "field": change.field,
        "before": _value(change, change.before),
        "after": _value(change, change.after),
    }


def _value(change: Change, value: Any) -> Any:
    """A value as the API gives it: the fields that end so are times."""
    return rfc3339(value) if change.field.endswith("_at") and isinstance(value, int) else value
