"""JSON Lines files that end with a trailer: a line with the SHA-256 of all bytes before it. Pure.

A file without its trailer is incomplete. Exports of the ledger and of the audit log, and backups, have this
form; each has its own lines and its own trailer.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import TypeVar

import msgspec

# Bytes that aren't UTF-8 are a ValueError, endless nesting is a RecursionError.
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


class DamagedFileError(Exception):
    """The file is incomplete, or was changed after it was written. The message says where."""


class LineError(Exception):
    """A line doesn't have the form of its format; the message is the rest of a sentence about it."""


def sealed(lines: Iterable[bytes], trailer: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """Yields the lines, then the trailer that `trailer` makes from their SHA-256."""
    digest = sha256()
    for line in lines:
        digest.update(line)
        yield line
    yield trailer(digest.digest())


class SealedReader:
    """Iterates over the lines of a file before its trailer. After the last line, the trailer can be checked.

    Don't trust any line before `verify` returned.
    """

    def __init__(self, file: Iterable[bytes], trailer_start: bytes) -> None:
        """`trailer_start` is how the trailer, and no other line, begins."""
        self.trailer: bytes | None = None
        self.ends_within_line = False
        self.lines_after_trailer = 0
        self._file = iter(file)
        self._trailer_start = trailer_start
        self._sha256 = sha256()
        self._count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._file:
            if not line.endswith(b"\n"):
                self.ends_within_line = True
                return
            if line.startswith(self._trailer_start):
                self.trailer = line
                self.lines_after_trailer = sum(1 for _ in self._file)
                return
            self._sha256.update(line)
            self._count += 1
            yield line

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of the lines that were read."""
        return self._sha256.digest()

    def verify(self, trailer: bytes) -> None:
        """Raises DamagedFileError if the file doesn't end with this trailer."""
        if self.ends_within_line:
            raise DamagedFileError(f"It's cut off in line {self._count + 1}.")
        if self.trailer is None:
            raise DamagedFileError(f"It ends after {self._count} lines, without a trailer.")
        if self.trailer != trailer:
            raise DamagedFileError(f"Its trailer doesn't match the {self._count} lines before it.")
        if self.lines_after_trailer:
            raise DamagedFileError("It has lines after its trailer.")


def tagged_line(tag: str, value: object) -> bytes:
    """A line with the JSON object `{tag: value}`."""
    return _encoder.encode({tag: value}) + b"\n"


def read_tagged_line(tag: str, line: bytes, of: type[T]) -> T:
    """The value of a line. Raises LineError."""
    try:
        value = msgspec.json.decode(line, type=dict[str, of])[tag]  # type: ignore[valid-type]  # it is given
    except (KeyError, *UNREADABLE) as error:
        raise LineError(f"it isn't a valid {tag}") from error
    return value
