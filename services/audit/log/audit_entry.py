"""An entry of the audit log, parsed once for lists, timelines, exports, the search and the API. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import msgspec

from services.audit.log.entry import Entry, record_of
from shared.eventstore.codec import decode
from shared.eventstore.envelope import Event, Record, UnreadableEventError
from shared.eventstore.payload import KEY_SUBJECT, Description, Payload, key_name

Integrity: TypeAlias = Literal["ok", "mismatch", "ledger_shorter"]


@dataclass(frozen=True)
class AuditEvent:
    """An event as the ledger stores it. A field that is missing, or isn't text, is None."""

    stored: Record | None  # None if the entry isn't one that the log writes
    fields: Mapping[str, Any]  # of the JSON object; none if it isn't one
    id: str | None
    type: str | None
    workspace: str | None
    subject: str | None
    actor: Mapping[str, str | None]  # kind, id and label
    request: Mapping[str, Any]
    ip: str | None
    request_id: str | None

    @property
    def key_id(self) -> str | None:
        """The key that the event is about, or None if it is about something else."""
        subject = self.subject
        return subject.removeprefix(KEY_SUBJECT) if subject and subject.startswith(KEY_SUBJECT) else None

    @property
    def data(self) -> Any:
        return self.fields.get("data")

    @property
    def key_name(self) -> str | None:
        """The name that the event gives to its key, if it does."""
        return key_name(self._decoded.data) if self._decoded else None

    @cached_property
    def description(self) -> Description:
        """Title and changes. The title of an event that this version can't read is its type."""
        if self._decoded is None:
            return Description(self.type or "Unreadable event", ())
        payload: Payload = self._decoded.data
        return payload.describe()

    @cached_property
    def _decoded(self) -> Event | None:
        try:
            return decode(self.stored) if self.stored else None
        except UnreadableEventError:
            return None


@dataclass(frozen=True)
class AuditEntry:
    """An entry and its event. The database may have been tampered with, so any value may be unreadable."""

    position: int
    at: int  # ms since 1970; 0 if it is unreadable
    event: AuditEvent
    record: str
    previous_hash: str  # in hex
    entry_hash: str
    integrity: Integrity


def parse_entry(entry: Entry, integrity: Integrity = "ok") -> AuditEntry:
    """Parses an entry as the database has it, and raises nothing."""
    is_bytes = isinstance(entry.record, bytes)
    return AuditEntry(
        position=entry.position,
        at=entry.at if isinstance(entry.at, int) else 0,
        event=parse_event(record_of(entry.record)),
        record=entry.record.decode(errors="backslashreplace") if is_bytes else str(entry.record),
        previous_hash=hex_of(entry.previous_hash),
        entry_hash=hex_of(entry.entry_hash),
        integrity=integrity,
    )


def parse_event(record: Record | None) -> AuditEvent:
    """Parses an event as the ledger stores it, and raises nothing."""
    fields = _json_object(record.body) if record else {}
    actor, request = _object(fields, "actor"), _object(fields, "request")
    return AuditEvent(
        stored=record,
        fields=fields,
        id=_text(fields, "id"),
        type=_text(fields, "type"),
        workspace=_text(fields, "workspace"),
        subject=_text(fields, "subject"),
        actor={name: _text(actor, name) for name in ("kind", "id", "label")},
        request=request,
        ip=_text(request, "ip"),
        request_id=_text(request, "id"),
    )


def hex_of(stored: object) -> str:
    """A hash in hex. Anything else that the database has in its place is returned as text."""
    return stored.hex() if isinstance(stored, bytes) else str(stored)


def _json_object(body: bytes) -> Mapping[str, Any]:
    # Bytes that aren't UTF-8 are a ValueError, endless nesting is a RecursionError.
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None
