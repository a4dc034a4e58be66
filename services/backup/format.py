"""A backup: what of a Keyledger cannot be made anew, as JSON lines. Pure.

In this order:
- `{"backup": {…}}`: the format, when it was taken, by which version, how many events and checkpoints it has.
- `{"checkpoint": note}`: the checkpoints of the audit log, from the first on.
- the lines of an export of the ledger, with its trailer (`shared.eventstore.cloudevents`).
- `{"credential": {"subject": …, "value": …}}`: what is kept of each password.
- `{"trailer": {"sha256": …}}`: of all bytes before it. Without it a file is not whole.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import BinaryIO, TypeVar

import msgspec

from services.audit.export.jsonl import LineError, note_line, read_note
from shared.eventstore import cloudevents as export
from shared.eventstore.cloudevents import DamagedFileError
from shared.eventstore.envelope import Record

FORMAT = 1

_TRAILER = b'{"trailer":'
# What else somebody may take for a backup, by how it begins.
_OTHERS = {
    b'{"specversion":': "is an export of the ledger, without passwords and checkpoints: "
    "`keyledger import` fills an empty ledger from it",
    b'{"entry_hash":': "is an export of the audit log, and nothing is restored from that: "
    "`keyledger audit check --file` proves it",
}
# Bytes that are not UTF-8 are a ValueError, endless nesting is a RecursionError.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError, LineError)

T = TypeVar("T")


class OtherFileError(Exception):
    """A file is no backup that can be read here; the message is the rest of a sentence about it."""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup is."""

    format: int = FORMAT
    taken_at: str
    keyledger: str  # the version
    events: int
    checkpoints: int


class Credential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stored form of a password, and whose it is."""

    subject: str
    value: str


class _Format(msgspec.Struct, frozen=True):
    format: int
    keyledger: str = "unknown"


_encoder = msgspec.json.Encoder()


class Writer:
    """Writes the parts of a backup, in the order of the methods."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._digest = sha256()
        self._write([_line("backup", header)])

    def notes(self, notes: Iterable[bytes]) -> None:
        """The checkpoints, by their numbers."""
        self._write(note_line("checkpoint", note) for note in notes)

    def records(self, records: Iterable[Record]) -> None:
        """The events of the ledger. Raises ExportError."""
        self._write(export.lines(records))

    def credentials(self, credentials: Iterable[Credential]) -> None:
        """What is kept of passwords, and the trailer."""
        self._write(_line("credential", credential) for credential in credentials)
        self._file.write(_trailer(self._digest.hexdigest()))

    def _write(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._digest.update(line)
            self._file.write(line)


def prove_whole(file: Iterable[bytes]) -> None:
    """Raises OtherFileError, and DamagedFileError on a file of which a byte is not as it was written."""
    digest, last = sha256(), b""
    for line in file:
        if not last:
            _refuse_other(line)
        digest.update(last)
        last = line
    if not last:
        raise OtherFileError("is empty")
    if not last.startswith(_TRAILER):
        raise DamagedFileError("It breaks off before its end.")
    if last != _trailer(digest.hexdigest()):
        raise DamagedFileError("It was changed, or is cut off in its last line.")


class Reader:
    """The parts of a backup that was proved to be whole.

    They are read in the order of the methods, each to its end. All raise DamagedFileError.
    """

    def __init__(self, file: Iterable[bytes]) -> None:
        self._lines = iter(file)
        self.header = _value("backup", next(self._lines, b""), Header)

    def notes(self) -> list[bytes]:
        """The checkpoints, by their numbers."""
        try:
            return [read_note("checkpoint", line) for line in islice(self._lines, self.header.checkpoints)]
        except _UNREADABLE as error:
            raise DamagedFileError("A line of it is no checkpoint.") from error

    def records(self) -> Iterator[Record]:
        """The events of the ledger."""
        return export.records(islice(self._lines, self.header.events + 1))

    def credentials(self) -> list[Credential]:
        """What is kept of passwords."""
        *before, _ = self._lines
        return [_value("credential", line, Credential) for line in before]


def events_of(file: BinaryIO) -> Iterator[Record]:
    """The events of a backup, whatever was read of it before. Raises DamagedFileError."""
    file.seek(0)
    reader = Reader(file)
    reader.notes()
    yield from reader.records()


def _refuse_other(line: bytes) -> None:
    for beginning, what in _OTHERS.items():
        if line.startswith(beginning):
            raise OtherFileError(what)
    try:
        found = msgspec.json.decode(line, type=dict[str, _Format])["backup"]
    except (KeyError, *_UNREADABLE) as error:
        raise OtherFileError("is no backup of a Keyledger: if it is encrypted, decrypt it first") from error
    if found.format != FORMAT:
        raise OtherFileError(
            f"is a backup of format {found.format}, which this version cannot read: "
            f"restore it by the version that wrote it, Keyledger {found.keyledger}"
        )


def _value(kind: str, line: bytes, of: type[T]) -> T:
    try:
        value = msgspec.json.decode(line, type=dict[str, of])[kind]  # type: ignore[valid-type]  # it is given
    except (KeyError, *_UNREADABLE) as error:
        raise DamagedFileError(f"A line of it is no {kind}.") from error
    return value


def _line(kind: str, value: Header | Credential) -> bytes:
    return _encoder.encode({kind: value}) + b"\n"


def _trailer(digest: str) -> bytes:
    return _encoder.encode({"trailer": {"sha256": digest}}) + b"\n"
