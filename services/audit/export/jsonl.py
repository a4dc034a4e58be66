"""The audit log as JSON Lines that can be verified offline. Pure.

A line is one of these:
- `{"entry_hash": hex, "previous_hash": hex, "record": {…}}`: the record has the very bytes that were hashed.
  If those aren't JSON, or would break the line, it's `record_base64` instead. Oldest first.
- `{"checkpoint": note}`: after the last entry that the checkpoint covers; only in an export of the whole log.
- `{"trailer": note}`: the last line, signed: the scope, how many entries, where they end, and the SHA-256 of
  all bytes before it (`shared.text.sealed_jsonl`).
"""

import base64
import binascii
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from services.audit.integrity.signed_note import NoteError
from services.audit.log.entry import GENESIS, Entry, canonical, record_of
from shared.clock import parse_rfc3339, rfc3339
from shared.errors import UserFacingError
from shared.text.sealed_jsonl import UNREADABLE, LineError, read_tagged_line, sealed, tagged_line

WHOLE = "whole"
TRAILER_START = b'{"trailer"'

_ENTRY = re.compile(
    rb'\{"entry_hash":"([0-9a-f]{64})","previous_hash":"([0-9a-f]{64})",'
    rb'"record(?:":(.*)|_base64":"([0-9A-Za-z+/=]*)")\}\n'
)
_TRAILER = re.compile(
    r"keyledger audit export v1\n"
    r"scope (.+)\n"
    r"count ([0-9]{1,18})\n"
    r"last_position ([0-9]{1,18})\n"
    r"chain_hash ([0-9a-f]{64})\n"
    r"sha256 ([0-9a-f]{64})\n"
    r"time (\S{24})\n"
)

_encoder = msgspec.json.Encoder(order="sorted")


class ExportError(UserFacingError):
    """The log can't be exported."""


@dataclass(frozen=True)
class Trailer:
    """What is signed at the end of an export."""

    scope: str  # WHOLE, or the filters and the workspace as JSON
    count: int
    last_position: int  # 0 if there is no entry
    chain_hash: bytes  # the entry_hash of the last entry, or GENESIS
    sha256: bytes  # of all bytes before the trailer's line
    time: int  # ms since 1970

    @property
    def text(self) -> str:
        """The text that is signed."""
        return (
            "keyledger audit export v1\n"
            f"scope {self.scope}\n"
            f"count {self.count}\n"
            f"last_position {self.last_position}\n"
            f"chain_hash {self.chain_hash.hex()}\n"
            f"sha256 {self.sha256.hex()}\n"
            f"time {rfc3339(self.time)}\n"
        )


def scope_of(workspace: str, filters: dict[str, str]) -> str:
    """The scope of an export by filters."""
    return _encoder.encode(filters | {"workspace": workspace}).decode()


def trailer_of(text: str) -> Trailer:
    """The inverse of `Trailer.text`. Raises NoteError for any other text."""
    match = _TRAILER.fullmatch(text)
    if match:
        scope, count, position, chain_hash, digest, time = match.groups()
        try:
            at = parse_rfc3339(time)
        except ValueError as error:
            raise NoteError("its time isn't valid") from error
        hashes = bytes.fromhex(chain_hash), bytes.fromhex(digest)
        found = Trailer(scope, int(count), int(position), *hashes, at)
        if found.text == text:
            return found
    raise NoteError("its text isn't a trailer")


def lines(
    entries: Iterable[Entry],
    checkpoints: Sequence[tuple[int, bytes]],
    scope: str,
    time: int,
    sign: Callable[[str], bytes],
) -> Iterator[bytes]:
    """The export. `checkpoints`: the last position that each covers, and its note, in order.

    Raises ExportError.
    """
    count, position, chain_hash = 0, 0, GENESIS

    def content() -> Iterator[bytes]:
        nonlocal count, position, chain_hash
        waiting = deque(checkpoints)
        for entry in entries:
            count, position, chain_hash = count + 1, entry.position, entry.entry_hash
            yield entry_line(entry)
            while waiting and waiting[0][0] <= position:
                yield note_line("checkpoint", waiting.popleft()[1])
        # Checkpoints of entries that are missing at the end: the export shows that they are.
        yield from (note_line("checkpoint", note) for _, note in waiting)

    def trailer(digest: bytes) -> bytes:
        signed = Trailer(scope, count, position, chain_hash, digest, time)
        return note_line("trailer", sign(signed.text))

    return sealed(content(), trailer)


def entry_line(entry: Entry) -> bytes:
    """An entry as a line. Raises ExportError if the database doesn't have it as it was written."""
    if not all(isinstance(each, bytes) for each in (entry.record, entry.previous_hash, entry.entry_hash)):
        raise ExportError(
            f"The entry at position {entry.position} is damaged: `keyledger audit check` shows why."
        )
    if _is_line(entry.record):
        record = b'":' + entry.record
    else:
        record = b'_base64":"' + base64.b64encode(entry.record) + b'"'
    hashes = entry.entry_hash.hex().encode(), entry.previous_hash.hex().encode()
    return b'{"entry_hash":"%b","previous_hash":"%b","record%b}\n' % (*hashes, record)


def note_line(kind: str, note: bytes) -> bytes:
    """A signed note as a line: a `checkpoint` or the `trailer`."""
    return tagged_line(kind, note.decode())


def read_entry(line: bytes) -> Entry:
    """The entry of a line. Raises LineError."""
    match = _ENTRY.fullmatch(line)
    if match is None:
        raise LineError("it isn't a line of an export")
    entry_hash, previous_hash, plain, encoded = match.groups()
    try:
        sealed_record = plain if plain is not None else base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise LineError("it isn't a line of an export") from error
    record = record_of(sealed_record)
    if record is None or canonical(record) != sealed_record:
        raise LineError("its record doesn't have the form that the log writes")
    hashes = bytes.fromhex(previous_hash.decode()), bytes.fromhex(entry_hash.decode())
    entry = Entry(record.position, record.at, sealed_record, *hashes)
    if entry_line(entry) != line:
        raise LineError("it isn't written as an export writes it")
    return entry


def read_note(kind: str, line: bytes) -> bytes:
    """The note of a line. Raises LineError."""
    note = read_tagged_line(kind, line, str).encode()
    if note_line(kind, note) != line:
        raise LineError("it isn't written as an export writes it")
    return note


def _is_line(record: bytes) -> bool:
    """Whether bytes are JSON without a line break."""
    if b"\n" in record or b"\r" in record:
        return False
    try:
        msgspec.json.decode(record)
    except UNREADABLE:
        return False
    return True
