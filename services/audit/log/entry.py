"""The entries of the audit log as the database has them, and the hash chain that links them. Pure.

An entry is the raw record of an event: the RFC 8785 form of `{"at": …, "event": …, "position": …}`, with the
event as the ledger stores it, and `entry_hash = SHA-256(previous_hash || record)`. The first entry follows
GENESIS, the SHA-256 of GENESIS_PREIMAGE. With the records alone, you can compute every hash.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shared.eventstore.envelope import Record

GENESIS_PREIMAGE = b"keyledger audit log, chain 1"
GENESIS = hashlib.sha256(GENESIS_PREIMAGE).digest()

_RECORD = re.compile(rb'\{"at":(-?[0-9]{1,19}),"event":(.*),"position":([0-9]{1,19})\}', re.DOTALL)


class Entry(NamedTuple):
    """A row of the audit log. Its position and time are in the record too."""

    position: int
    at: int  # ms since 1970
    record: bytes
    previous_hash: bytes
    entry_hash: bytes


def canonical(record: Record) -> bytes:
    """The bytes that are hashed. The stored event is canonical JSON already, and isn't parsed."""
    return b'{"at":%d,"event":%b,"position":%d}' % (record.at, record.body, record.position)


def record_of(sealed: object) -> Record | None:
    """The inverse. Returns None for anything else, which a database that was tampered with may hold."""
    match = _RECORD.fullmatch(sealed) if isinstance(sealed, bytes) else None
    return Record(int(match[3]), int(match[1]), match[2]) if match else None


def entry_of(record: Record, previous_hash: bytes) -> Entry:
    """The entry of an event, also of one that this version can't read."""
    sealed = canonical(record)
    digest = hashlib.sha256(previous_hash + sealed).digest()
    return Entry(record.position, record.at, sealed, previous_hash, digest)


def chain(records: Iterable[Record], previous_hash: bytes) -> Iterator[Entry]:
    """The entries of consecutive events."""
    for record in records:
        entry = entry_of(record, previous_hash)
        previous_hash = entry.entry_hash
        yield entry
