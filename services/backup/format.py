"""The format of a backup: everything that can't be derived from something else, as JSON Lines. Pure.

In this order:
- `{"backup": {…}}`: the format, when it was taken, by which version, how many events and checkpoints it has.
- `{"checkpoint": note}`: the checkpoints of the audit log, from the first one on.
- the lines of an export of the ledger, with its trailer (`shared.eventstore.cloudevents`).
- `{"credential": {"subject": …, "value": …}}`: the stored passwords.
- `{"trailer": {"sha256": …}}`: the SHA-256 of all bytes before it (`shared.text.sealed_jsonl`).
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import BinaryIO, TypeVar

import msgspec

from services.audit.export.jsonl import note_line, read_note
from shared.eventstore import cloudevents as export
from shared.eventstore.envelope import Record
from shared.text.sealed_jsonl import (
    DamagedFileError,
    LineError,
    SealedReader,
    read_tagged_line,
    sealed,
    tagged_line,
)

FORMAT = 1

_TRAILER = b'{"trailer":'
# Files that are easily mistaken for a backup, by how they begin.
_OTHERS = {
    b'{"specversion":': "is an export of the ledger, without passwords and checkpoints: "
    "`keyledger import` fills an empty ledger from it",
    b'{"entry_hash":': "is an export of the audit log, and nothing can be restored from it: "
    "`keyledger audit check --file` verifies it",
}

T = TypeVar("T")


class OtherFileError(Exception):
    """A file isn't a backup that this version can read; the message is the rest of a sentence about it."""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup contains."""

    format: int = FORMAT
    taken_at: str
    keyledger: str  # the version
    events: int
    checkpoints: int


class Credential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The hash of an account's password."""

    subject: str
    value: str


class _Format(msgspec.Struct, frozen=True):
    format: int
    keyledger: str = "unknown"


def lines(
    header: Header, notes: Iterable[bytes], records: Iterable[Record], credentials: Iterable[Credential]
) -> Iterator[bytes]:
    """A backup. `credentials` is read after `records`. Raises cloudevents.ExportError."""
    content = chain(
        [tagged_line("backup", header)],
        (note_line("checkpoint", note) for note in notes),
        export.lines(records),
        (tagged_line("credential", credential) for credential in credentials),
    )
    return sealed(content, _trailer)


def verify_whole(file: Iterable[bytes]) -> None:
    """Raises OtherFileError, and DamagedFileError if any byte of the file was changed or is missing."""
    left = iter(file)
    first = next(left, b"")
    if not first:
        raise OtherFileError("is empty")
    _refuse_other(first)
    reader = SealedReader(chain([first], left), _TRAILER)
    for _ in reader:
        pass
    reader.verify(_trailer(reader.sha256))


class Reader:
    """The content of a backup that was verified to be whole.

    Call the methods in this order, and read each result to its end. All raise DamagedFileError.
    """

    def __init__(self, file: Iterable[bytes]) -> None:
        self._lines = iter(file)
        self.header = _value("backup", next(self._lines, b""), Header)

    def notes(self) -> list[bytes]:
        """The checkpoints, by their numbers."""
        try:
            return [read_note("checkpoint", line) for line in islice(self._lines, self.header.checkpoints)]
        except LineError as error:
            raise DamagedFileError("A line of it isn't a valid checkpoint.") from error

    def records(self) -> Iterator[Record]:
        """The events of the ledger."""
        return export.records(islice(self._lines, self.header.events + 1))

    def credentials(self) -> list[Credential]:
        """The password hashes."""
        *before, _ = self._lines
        return [_value("credential", line, Credential) for line in before]


def events_of(file: BinaryIO) -> Iterator[Record]:
    """The events of a backup, read from its beginning. Raises DamagedFileError."""
    file.seek(0)
    reader = Reader(file)
    reader.notes()
    yield from reader.records()


def _refuse_other(line: bytes) -> None:
    for beginning, what in _OTHERS.items():
        if line.startswith(beginning):
            raise OtherFileError(what)
    try:
        found = read_tagged_line("backup", line, _Format)
    except LineError as error:
        raise OtherFileError("isn't a Keyledger backup: if it is encrypted, decrypt it first") from error
    if found.format != FORMAT:
        raise OtherFileError(
            f"is a backup of format {found.format}, which this version can't read: "
            f"restore it with the version that wrote it, Keyledger {found.keyledger}"
        )


def _value(tag: str, line: bytes, of: type[T]) -> T:
    try:
        return read_tagged_line(tag, line, of)
    except LineError as error:
        raise DamagedFileError(f"A line of it isn't a valid {tag}.") from error


def _trailer(digest: bytes) -> bytes:
    return tagged_line("trailer", {"sha256": digest.hex()})
