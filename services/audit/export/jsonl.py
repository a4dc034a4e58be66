"""The audit log as a file that proves itself: JSON lines, the last of them signed. Pure.

A line is one of three:
- `{"entry_hash": hex, "previous_hash": hex, "record": {…}}`, the record as the very bytes that the chain
  seals; where those are no JSON, or would break the line, `record_base64` instead. Oldest first.
- `{"checkpoint": note}`, behind the last entry that the checkpoint vouches for; only of a whole log.
- `{"trailer": note}`, the last line, signed: what the file is of, how many entries, where they end, and the
  SHA-256 of all bytes before. Without it a file is not whole.
"""

import base64
import binascii
import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from services.audit.integrity.signed_note import NoteError
from services.audit.log.entry import GENESIS, Entry, canonical, record_of
from shared.clock import parse_rfc3339, rfc3339
from shared.errors import UserFacingError

WHOLE = "whole"

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
# Bytes that are not UTF-8 are a ValueError, endless nesting is a RecursionError.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)

_encoder = msgspec.json.Encoder(order="sorted")


class ExportError(UserFacingError):
    """The log cannot be exported as it is."""


class LineError(Exception):
    """A line is not what an export writes."""


@dataclass(frozen=True)
class Trailer:
    """What is signed of an export."""

    scope: str  # WHOLE, or the filters with their workspace as JSON
    count: int
    last_position: int  # 0 of none
    chain_hash: bytes  # the entry_hash of the last; GENESIS of none
    sha256: bytes  # of all bytes before the trailer's line
    time: int  # ms since 1970

    @property
    def text(self) -> str:
        """What is signed."""
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
    """What an export of some entries is of."""
    return _encoder.encode(filters | {"workspace": workspace}).decode()


def trailer_of(text: str) -> Trailer:
    """The inverse of `text`. Raises NoteError on any other."""
    match = _TRAILER.fullmatch(text)
    if match:
        scope, count, position, chain_hash, digest, time = match.groups()
        try:
            at = parse_rfc3339(time)
        except ValueError as error:
            raise NoteError("its time is none") from error
        vouched = bytes.fromhex(chain_hash), bytes.fromhex(digest)
        found = Trailer(scope, int(count), int(position), *vouched, at)
        if found.text == text:
            return found
    raise NoteError("its text is not that of a trailer")


def lines(
    entries: Iterable[Entry],
    checkpoints: Sequence[tuple[int, bytes]],
    scope: str,
    time: int,
    sign: Callable[[str], bytes],
) -> Iterator[bytes]:
    """The file, line by line. `checkpoints`: the position that each vouches for, and its note, in order.

    Raises ExportError.
    """
    digest, count, position, chain_hash = hashlib.sha256(), 0, 0, GENESIS
    waiting = deque(checkpoints)
    for entry in entries:
        line = entry_line(entry)
        count, position, chain_hash = count + 1, entry.position, entry.entry_hash
        digest.update(line)
        yield line
        while waiting and waiting[0][0] <= position:
            line = note_line("checkpoint", waiting.popleft()[1])
            digest.update(line)
            yield line
    for _, note in waiting:  # of a log whose end is gone; the file shows it
        line = note_line("checkpoint", note)
        digest.update(line)
        yield line
    trailer = Trailer(scope, count, position, chain_hash, digest.digest(), time)
    yield note_line("trailer", sign(trailer.text))


def entry_line(entry: Entry) -> bytes:
    """An entry as a line. Raises ExportError on one that its database does not hold as it was written."""
    if not all(isinstance(each, bytes) for each in (entry.record, entry.previous_hash, entry.entry_hash)):
        raise ExportError(
            f"The entry at position {entry.position} is damaged: `keyledger audit check` says more."
        )
    if _is_line(entry.record):
        record = b'":' + entry.record
    else:
        record = b'_base64":"' + base64.b64encode(entry.record) + b'"'
    hashes = entry.entry_hash.hex().encode(), entry.previous_hash.hex().encode()
    return b'{"entry_hash":"%b","previous_hash":"%b","record%b}\n' % (*hashes, record)


def note_line(kind: str, note: bytes) -> bytes:
    """A signed note as a line."""
    return _encoder.encode({kind: note.decode()}) + b"\n"


def read_entry(line: bytes) -> Entry:
    """The entry of a line. Raises LineError."""
    match = _ENTRY.fullmatch(line)
    if match is None:
        raise LineError("it is no line of an export")
    entry_hash, previous_hash, plain, encoded = match.groups()
    try:
        sealed = plain if plain is not None else base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise LineError("it is no line of an export") from error
    record = record_of(sealed)
    if record is None or canonical(record) != sealed:
        raise LineError("its record is not of the form that the log writes")
    hashes = bytes.fromhex(previous_hash.decode()), bytes.fromhex(entry_hash.decode())
    entry = Entry(record.position, record.at, sealed, *hashes)
    if entry_line(entry) != line:
        raise LineError("it is not as an export writes it")
    return entry


def read_note(kind: str, line: bytes) -> bytes:
    """The note of a line: a `checkpoint` or the `trailer`. Raises LineError."""
    try:
        note = msgspec.json.decode(line, type=dict[str, str])[kind].encode()
    except (KeyError, *_UNREADABLE) as error:
        raise LineError("it is no line of an export") from error
    if note_line(kind, note) != line:
        raise LineError("it is not as an export writes it")
    return note


def _is_line(record: bytes) -> bool:
    """Whether bytes are JSON that does not break a line."""
    if b"\n" in record or b"\r" in record:
        return False
    try:
        msgspec.json.decode(record)
    except _UNREADABLE:
        return False
    return True
