"""Files, pipes and standard streams that exports and backups are written to and read from."""

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from shared.errors import UserFacingError

_STANDARD = "-"  # for standard input or output


class FileError(UserFacingError):
    """A file can't be read or written; the message is one line that names it."""


@contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """Opens a file or standard output for writing. Raises FileError.

    A new file is readable only by its owner, and gets its name once it is complete.
    """
    try:
        with _written(path) as file:
            yield file
    except BrokenPipeError:
        raise  # the reader closed the pipe
    except OSError as error:
        raise FileError(f"{path or 'Standard output'} can't be written: {error.strerror}.") from error


@contextmanager
def source(path: Path) -> Iterator[BinaryIO]:
    """Opens a seekable file: the file itself, or a temporary copy of standard input. Raises FileError."""
    try:
        with _copied(sys.stdin.buffer) if str(path) == _STANDARD else path.open("rb") as file:
            file.seek(0)
            yield file
    except OSError as error:
        reason = error.strerror or "it must be a file, or - for standard input, because it is read twice"
        raise FileError(f"{path} can't be read: {reason}.") from error


@contextmanager
def _written(path: Path | None) -> Iterator[BinaryIO]:
    if path is None or str(path) == _STANDARD:
        if not sys.stdout:  # None if the caller closed it
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as pipe:
            yield pipe
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _copied(stream: BinaryIO) -> Iterator[BinaryIO]:
    with TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy)
        yield cast("BinaryIO", copy)
