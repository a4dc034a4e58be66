"""Entries as the pages show them."""

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError

from services.audit.log.audit_entry import AuditEntry
from shared.eventstore.payload import ACCESS_SUBJECT
from shared.web.schemas import PageSchema

PAGE = 50
UNKNOWN = "Unknown"


def cursor_of(arguments: Mapping[str, str]) -> int | None:
    """The cursor of a page. An invalid one is ignored, so the page starts with the newest entry."""
    try:
        given = PageSchema(only=["cursor"]).load({"cursor": arguments.get("cursor", "")})
    except ValidationError:
        return None
    cursor: int | None = given["cursor"]
    return cursor


def row(entry: AuditEntry, key_names: Mapping[str, str]) -> dict[str, Any]:
    """An entry as the pages' templates show it."""
    event = entry.event
    subject, key_name = event.subject or UNKNOWN, key_names.get(event.key_id or "")
    return {
        "position": entry.position,
        "integrity": entry.integrity,
        "at": entry.at,
        "event_id": event.id or UNKNOWN,
        "type": event.type or UNKNOWN,
        "title": event.description.title,
        "actor": {name: value or UNKNOWN for name, value in event.actor.items()},
        "key_id": event.key_id,
        "key_name": key_name,
        "subject": subject,
        "about": key_name or _about(subject, event.data),
        "ip": event.ip,
        "user_agent": event.request.get("user_agent"),
        "request_id": event.request_id,
        "changes": [change._asdict() for change in event.description.changes],
        "record": entry.record,
        "entry_hash": entry.entry_hash,
        "previous_hash": entry.previous_hash,
    }


def _about(subject: str, data: object) -> str:
    """The subject without its kind. For a denial it's the scope, because the actor is shown anyway."""
    if subject.startswith(ACCESS_SUBJECT) and isinstance(data, dict):
        return str(data.get("scope", UNKNOWN))
    return subject.partition(":")[2]
