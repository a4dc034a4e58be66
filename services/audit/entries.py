"""What the audit log keeps of an event, and the chain that seals it. Pure.

The chain: an entry's record is the RFC 8785 form of `{"at": …, "event": …, "position": …}`, with the event
as the ledger stores it, and `entry_hash = SHA-256(previous_hash || record)`. The first entry follows
GENESIS, the SHA-256 of GENESIS_PREIMAGE. Whoever has the records can compute every hash again.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from shared.descriptions import Description, describe
from shared.events import KEY_SUBJECT, Event, KeyCreated, Record, UnreadableEventError, decode, name_of

GENESIS_PREIMAGE = b"keyledger audit log, chain 1"
GENESIS = hashlib.sha256(GENESIS_PREIMAGE).digest()

_COLUMN_LENGTH = 300  # characters; an index takes no more, and the whole text is in the record
_RECORD = re.compile(rb'\{"at":(-?[0-9]{1,19}),"event":(.*),"position":([0-9]{1,19})\}', re.DOTALL)


class Entry(NamedTuple):
    """An entry of the audit log. All but the hashes is told by the record; None is what it does not tell."""

    position: int
    event_id: str | None
    at: int  # ms since 1970
    workspace: str | None
    subject: str | None
    key_id: str | None
    type: str | None
    actor_kind: str | None
    actor_id: str | None
    actor_label: str | None
    ip: str | None
    request_id: str | None
    record: bytes
    previous_hash: bytes
    entry_hash: bytes


def canonical(record: Record) -> bytes:
    """The bytes that the chain seals. The stored event is canonical JSON already, and is not looked into."""
    return b'{"at":%d,"event":%b,"position":%d}' % (record.at, record.body, record.position)


def record_of(sealed: object) -> Record | None:
    """The inverse; None of what was not made so, which a database that was tampered with may hold."""
    match = _RECORD.fullmatch(sealed) if isinstance(sealed, bytes) else None
    return Record(int(match[3]), int(match[1]), match[2]) if match else None


def entry_of(record: Record, previous_hash: bytes) -> Entry:
    """The entry of an event, whatever event it is: one that cannot be read leaves its columns empty."""
    sealed = canonical(record)
    name = name_of(record)
    stored = _object(record.body)
    actor = _part(stored, "actor")
    request = _part(stored, "request")
    subject = column(name.subject)
    return Entry(
        position=record.position,
        event_id=column(name.id),
        at=record.at,
        workspace=column(stored.get("workspace")),
        subject=subject,
        key_id=subject[len(KEY_SUBJECT) :] if subject and subject.startswith(KEY_SUBJECT) else None,
        type=column(stored.get("type")),
        actor_kind=column(actor.get("kind")),
        actor_id=column(actor.get("id")),
        actor_label=column(actor.get("label")),
        ip=column(request.get("ip")),
        request_id=column(request.get("id")),
        record=sealed,
        previous_hash=previous_hash,
        entry_hash=hashlib.sha256(previous_hash + sealed).digest(),
    )


def chain(records: Iterable[Record], previous_hash: bytes) -> Iterator[Entry]:
    """The entries of events that follow each other."""
    for record in records:
        entry = entry_of(record, previous_hash)
        previous_hash = entry.entry_hash
        yield entry


def column(value: object) -> str | None:
    """A text as the columns hold it: PostgreSQL stores no U+0000, and an index no long text."""
    return value[:_COLUMN_LENGTH].replace("\x00", "\ufffd") if isinstance(value, str) else None


def stored_event(entry: Entry) -> dict[str, Any]:
    """The event as it is stored; nothing of one that is no JSON object."""
    record = record_of(entry.record)
    return _object(record.body) if record else {}


def key_name(entry: Entry) -> str | None:
    """The name that the entry gives to its key, if it does."""
    event = _event(entry)
    return event.data.name if event and isinstance(event.data, KeyCreated) else None


def description_of(entry: Entry) -> Description:
    """What happened, in human words; of an event that this version does not know, its own name."""
    event = _event(entry)
    if event is None:
        return Description(entry.type or "Unreadable event", ())
    return describe(event.data)


def _event(entry: Entry) -> Event | None:
    record = record_of(entry.record)
    try:
        return decode(record) if record else None
    except UnreadableEventError:
        return None


def _object(body: bytes) -> dict[str, Any]:
    # Bytes that are not UTF-8 are a ValueError, endless nesting is a RecursionError.
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _part(stored: dict[str, Any], name: str) -> dict[str, Any]:
    value = stored.get(name)
    return value if isinstance(value, dict) else {}
