"""Entries as the pages show them."""

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError

from services.audit.integrity.comparison import Compared
from services.audit.log.entry import description_of, hex_of, stored_event, text_of, time_of, told
from services.audit.web.schemas import actor_of
from shared.eventstore.payload import ACCESS_SUBJECT
from shared.web.schemas import PageSchema

PAGE = 50
UNKNOWN = "Unknown"


def cursor_of(arguments: Mapping[str, str]) -> int | None:
    """Where a page begins; one that was mangled begins with the newest."""
    try:
        given = PageSchema(only=["cursor"]).load({"cursor": arguments.get("cursor", "")})
    except ValidationError:
        return None
    cursor: int | None = given["cursor"]
    return cursor


def row(compared: Compared, key_names: Mapping[str, str]) -> dict[str, Any]:
    """An entry."""
    entry = compared.entry
    description, event, stored = description_of(entry), told(entry), stored_event(entry)
    request = stored.get("request")
    return {
        "position": entry.position,
        "integrity": compared.integrity,
        "at": time_of(entry.at),
        "event_id": event.event_id or UNKNOWN,
        "type": event.type or UNKNOWN,
        "title": description.title,
        "actor": {name: value or UNKNOWN for name, value in actor_of(event).items()},
        "key_id": event.key_id,
        "key_name": key_names.get(event.key_id or ""),
        "subject": event.subject or UNKNOWN,
        "about": key_names.get(event.key_id or "") or _about(event.subject or UNKNOWN, stored.get("data")),
        "ip": event.ip,
        "user_agent": request.get("user_agent") if isinstance(request, dict) else None,
        "request_id": event.request_id,
        "changes": [change._asdict() for change in description.changes],
        "record": text_of(entry.record),
        "entry_hash": hex_of(entry.entry_hash),
        "previous_hash": hex_of(entry.previous_hash),
    }


def _about(subject: str, data: object) -> str:
    """What it happened to; of a denial, what was denied, for the caller stands beside it anyway."""
    if subject.startswith(ACCESS_SUBJECT) and isinstance(data, dict):
        return str(data.get("scope", UNKNOWN))
    return subject.partition(":")[2]
