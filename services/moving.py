"""Moving house: the whole ledger to a file, and from a file into an empty ledger."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from shared.errors import AdvisedError
from shared.events import Record
from shared.export import DamagedFileError, ExportError, lines, records
from shared.ledger import Ledger, UnexpectedHeadError

_PAGE = 500

Progress = Callable[[int, int], None]  # events done, events in all, which may be an estimate


class MovingError(AdvisedError):
    """An export or an import cannot be done; the message is one line that says what to do."""


def export_file(ledger: Ledger, path: Path | None, progress: Progress) -> int:
    """Writes what the ledger holds at this moment, and gives how many events that are.

    Raises MovingError, redis.RedisError.
    """
    last = ledger.head().position
    try:
        with output(path) as file:
            file.writelines(lines(_until(last, ledger, progress)))
    except ExportError as error:
        raise MovingError(str(error)) from error
    except BrokenPipeError:
        raise  # whoever read it wants no more
    except OSError as error:
        raise MovingError(f"{path or 'Standard output'} cannot be written: {error.strerror}.") from error
    return last


def import_file(ledger: Ledger, path: Path, progress: Progress) -> int:
    """Fills an empty ledger with the events of a file, and gives how many those are.

    The file is read twice, and nothing is written before it is known to be whole. An import that was
    interrupted is gone on with: then the ledger holds the first events of the file and nothing else.
    Raises MovingError, redis.RedisError.
    """
    try:
        with path.open("rb") as file:
            count = _verify(file, path, progress)
            _refuse_other(ledger, file, count)
            _write(ledger, file, count, progress)
            return count
    except OSError as error:
        reason = error.strerror or "it must be a file, for it is read twice"
        raise MovingError(f"{path} cannot be read: {reason}.") from error


def _verify(file: BinaryIO, path: Path, progress: Progress) -> int:
    size, count = os.fstat(file.fileno()).st_size, 0
    file.seek(0)
    try:
        for record in records(file):
            count = record.position
            if count % _PAGE == 0:
                progress(count, count * size // file.tell())
    except DamagedFileError as error:
        raise MovingError(f"{path} is not a whole export. {error} Nothing was written.") from error
    return count


def _refuse_other(ledger: Ledger, file: BinaryIO, count: int) -> None:
    """Takes an empty ledger, or one that holds a beginning of the file as an interrupted import leaves it."""
    if ledger.is_untouched():
        return
    head = ledger.head().position
    if head == 0 or head > count or not _begins_with(ledger, file, head):
        raise MovingError(
            f"The ledger is not empty: it holds {head:,} events. Import into a new data directory or store."
        )
    if head == count:
        raise MovingError(f"The ledger is not empty: it holds all {count:,} events of the file already.")


def _begins_with(ledger: Ledger, file: BinaryIO, head: int) -> bool:
    file.seek(0)
    beginning = _pages(islice(records(file), head))
    return all(page == ledger.read(page[0].position - 1, len(page)) for page in beginning)


def _write(ledger: Ledger, file: BinaryIO, count: int, progress: Progress) -> None:
    file.seek(0)
    head = ledger.head().position
    try:
        for page in _pages(record for record in records(file) if record.position > head):
            ledger.fill(page[0].position - 1, page)
            progress(page[-1].position, count)
    except UnexpectedHeadError as error:
        raise MovingError(
            "Somebody else wrote to the ledger during the import, so it is not that of the file: "
            "stop every Keyledger on this store, and import into a new data directory or store."
        ) from error
    except DamagedFileError as error:
        raise MovingError(
            f"The file was changed while it was imported. {error} "
            "Begin again with a new data directory or store."
        ) from error


def _pages(events: Iterator[Record]) -> Iterator[list[Record]]:
    while page := list(islice(events, _PAGE)):
        yield page


def _until(last: int, ledger: Ledger, progress: Progress) -> Iterator[Record]:
    position = 0
    while position < last:
        page = ledger.read(position, min(_PAGE, last - position))
        if not page:
            raise ExportError("The ledger went backwards while it was exported. Export it again.")
        yield from page
        position = page[-1].position
        progress(position, last)


@contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """Where an export goes. A file appears under its name, for its owner's eyes, once it is whole."""
    if path is None or str(path) == "-":
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
