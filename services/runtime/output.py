"""The output of commands: control characters are escaped, and output that is lost is reported."""

import errno
import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
from rich.console import Console
from rich.table import Table

from shared.errors import UserFacingError
from shared.process.telemetry import escaped

_ROOT = 0


class OutputError(UserFacingError):
    """Standard output cannot be written; the message says what was done and what was not."""


def prepare_output() -> None:
    """Escapes what the terminal's encoding lacks. Call it first.

    A descriptor that the caller closed is opened on /dev/null: otherwise the next connection would get its
    number, and receive what is printed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def ensure_writable() -> None:
    """Checks standard output before a command whose result is shown only once. Raises OutputError."""
    with _errors("Nothing was done, because the secret is shown only once.", pipes=True):
        _try_to_write()


def echo(text: str = "", end: str = "\n") -> None:
    """Prints a text. Raises OutputError, BrokenPipeError."""
    with _errors():
        _write(escaped(text, "\n") + end)


def report(text: str) -> None:
    """Prints what was done. Raises OutputError with the same text if it can't be printed."""
    tell_once(text, f"Done: {text}")


def tell_once(text: str, otherwise: str) -> None:
    """Prints what can't be printed again. Raises OutputError with the text `otherwise` if it fails."""
    with _errors(otherwise, pipes=True):
        _write(escaped(text, "\n") + "\n")


def note(text: str) -> None:
    """Prints a text on standard error; one that can't be printed there is dropped."""
    with suppress(OSError):
        if sys.stderr:
            sys.stderr.write(f"{escaped(text)}\n")
            sys.stderr.flush()


def print_table(table: Table) -> None:
    """Prints a table. Raises OutputError, BrokenPipeError."""
    with _errors():
        _ensure_open()
        Console().print(table)


def echo_coloured(text: str) -> None:
    """Prints a text with colours, on a terminal and unless NO_COLOR is set.

    Escape other control characters first. Raises OutputError, BrokenPipeError.
    """
    with _errors():
        _ensure_open()
        encoding = sys.stdout.encoding
        plain = text.encode(encoding, "backslashreplace").decode(encoding)
        click.echo(plain, color=False if os.environ.get("NO_COLOR") else None)


def settle() -> None:
    """Drops what can't be written, which Python would report when it ends. Call it last."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except OSError:
            with suppress(OSError):
                _replace(stream.fileno())


@contextmanager
def _errors(then: str = "", *, pipes: bool = False) -> Iterator[None]:
    """Raises OutputError with the reason and `then`. A closed pipe counts only if `pipes` is set."""
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not pipes:
            raise
        reason = error.strerror or str(error)
        raise OutputError(f"Standard output can't be written ({reason}). {then}".rstrip()) from error


def _write(text: str) -> None:
    _ensure_open()
    sys.stdout.write(text)
    sys.stdout.flush()


def _replace(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def _ensure_open() -> None:
    if not sys.stdout:  # as Python has it where the caller closed it
        raise OSError(errno.EBADF, "it is closed")


def _try_to_write() -> None:
    _ensure_open()
    try:
        descriptor = sys.stdout.fileno()
    except io.UnsupportedOperation:  # it is in memory
        return
    os.write(descriptor, b"")  # refused by /dev/full, and where it is open to read only
    poll = select.poll()
    poll.register(descriptor, 0)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    if stat.S_ISREG(os.fstat(descriptor).st_mode) and not _room(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _room(descriptor: int) -> int:
    """Returns how many blocks are free on the disk of a file."""
    disk = os.fstatvfs(descriptor)
    return disk.f_bfree if os.geteuid() == _ROOT else disk.f_bavail
