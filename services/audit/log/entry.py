"""What the audit log keeps of an event, and the chain that seals it. Pure.

An entry is its record, and nothing beside: what is filtered, shown and exported is read from it. The record
is the RFC 8785 form of `{"at": …, "event": …, "position": …}`, with the event as the ledger stores it, and
`entry_hash = SHA-256(previous_hash || record)`. The first entry follows GENESIS, the SHA-256 of
GENESIS_PREIMAGE. Whoever has the records can compute every hash again.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from shared.eventstore.codec import decode
from shared.eventstore.envelope import Event, Record, UnreadableEventError
from shared.eventstore.payload import KEY_SUBJECT, Description, Payload, key_name

GENESIS_PREIMAGE = b"keyledger audit log, chain 1"
GENESIS = hashlib.sha256(GENESIS_PREIMAGE).digest()

_RECORD = re.compile(rb'\{"at":(-?[0-9]{1,19}),"event":(.*),"position":([0-9]{1,19})\}', re.DOTALL)


class Entry(NamedTuple):
    """An entry of the audit log. Its position and time stand in the record too."""

    position: int
    at: int  # ms since 1970
    record: bytes
    previous_hash: bytes
    entry_hash: bytes


class Told(NamedTuple):
    """What a record tells of its event, as far as it can be read."""

    event_id: str | None
    type: str | None
    workspace: str | None
    subject: str | None
    key_id: str | None
    actor_kind: str | None
    actor_id: str | None
    actor_label: str | None
    ip: str | None
    request_id: str | None


def canonical(record: Record) -> bytes:
    """The bytes that the chain seals. The stored event is canonical JSON already, and is not looked into."""
    return b'{"at":%d,"event":%b,"position":%d}' % (record.at, record.body, record.position)


def record_of(sealed: object) -> Record | None:
    """The inverse; None of what was not made so, which a database that was tampered with may hold."""
    match = _RECORD.fullmatch(sealed) if isinstance(sealed, bytes) else None
    return Record(int(match[3]), int(match[1]), match[2]) if match else None


def entry_of(record: Record, previous_hash: bytes) -> Entry:
    """The entry of an event, whatever event it is."""
    sealed = canonical(record)
    digest = hashlib.sha256(previous_hash + sealed).digest()
    return Entry(record.position, record.at, sealed, previous_hash, digest)


def chain(records: Iterable[Record], previous_hash: bytes) -> Iterator[Entry]:
    """The entries of events that follow each other."""
    for record in records:
        entry = entry_of(record, previous_hash)
        previous_hash = entry.entry_hash
        yield entry


def told(entry: Entry) -> Told:
    """What the entry tells of its event; nothing of one that is no JSON object."""
    return told_by(stored_event(entry))


def told_by(stored: Mapping[str, Any]) -> Told:
    """The same of an event as it is stored."""
    actor, request = _part(stored, "actor"), _part(stored, "request")
    subject = _text(stored, "subject")
    return Told(
        event_id=_text(stored, "id"),
        type=_text(stored, "type"),
        workspace=_text(stored, "workspace"),
        subject=subject,
        key_id=subject[len(KEY_SUBJECT) :] if subject and subject.startswith(KEY_SUBJECT) else None,
        actor_kind=_text(actor, "kind"),
        actor_id=_text(actor, "id"),
        actor_label=_text(actor, "label"),
        ip=_text(request, "ip"),
        request_id=_text(request, "id"),
    )


def hex_of(stored: object) -> str:
    """A hash in hex; anything else, which a database that was tampered with may hold, as it is."""
    return stored.hex() if isinstance(stored, bytes) else str(stored)


def time_of(stored: object) -> int:
    """The time of an entry; 1970 for anything else, which a database that was tampered with may hold."""
    return stored if isinstance(stored, int) else 0


def text_of(stored: object) -> str:
    """The same of a record."""
    return stored.decode(errors="backslashreplace") if isinstance(stored, bytes) else str(stored)


def stored_event(entry: Entry) -> dict[str, Any]:
    """The event as it is stored; nothing of one that is no JSON object."""
    record = record_of(entry.record)
    return opened(record.body) if record else {}


def opened(body: bytes) -> dict[str, Any]:
    """The JSON object that the bytes of an event are; an empty one, if they are none."""
    # Bytes that are not UTF-8 are a ValueError, endless nesting is a RecursionError.
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def name_of_key(entry: Entry) -> str | None:
    """The name that the entry gives to its key, if it does."""
    event = _event(entry)
    return key_name(event.data) if event else None


def description_of(entry: Entry) -> Description:
    """What happened, in human words; of an event that this version does not know, its own name."""
    event = _event(entry)
    if event is None:
        return Description(told(entry).type or "Unreadable event", ())
    payload: Payload = event.data
    return payload.describe()


def _event(entry: Entry) -> Event | None:
    record = record_of(entry.record)
    try:
        return decode(record) if record else None
    except UnreadableEventError:
        return None


def _part(stored: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = stored.get(name)
    return value if isinstance(value, dict) else {}


def _text(stored: Mapping[str, Any], name: str) -> str | None:
    value = stored.get(name)
    return value if isinstance(value, str) else None
