"""Exports the whole ledger to a file, and imports a file into an empty ledger."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from services.backup.files import output, source
from shared.clock import LAST_TIME
from shared.errors import UserFacingError
from shared.eventstore.cloudevents import ExportError, lines, records
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import Ledger, NotReplicatedError, UnexpectedHeadError
from shared.text.sealed_jsonl import DamagedFileError

_PAGE = 500

Progress = Callable[[int, int], None]  # events done, and of all, which may be an estimate


class TransferError(UserFacingError):
    """A transfer isn't possible; the message is one line that says what to do."""


def export_file(ledger: Ledger, path: Path | None, progress: Progress) -> int:
    """Writes all events that the ledger has now, and returns how many.

    Raises TransferError, FileError, redis.RedisError.
    """
    last = ledger.head().position
    try:
        with output(path) as file:
            file.writelines(lines(read_until(last, ledger, progress)))
    except ExportError as error:
        raise TransferError(str(error)) from error
    return last


def import_file(ledger: Ledger, path: Path, progress: Progress) -> int:
    """Fills an empty ledger with the events of a file, and returns how many.

    The file is read twice, and nothing is written before it is verified. An interrupted import is resumed if
    the ledger has only the first events of the file. A time after the year 9999 is rejected, because no later
    event can have an earlier time.
    Raises TransferError, FileError, redis.RedisError.
    """
    with source(path) as file:
        count = _verify(file, path, progress)
        if held_of(records(from_start(file)), count, ledger) == count > 0:
            raise TransferError(f"The ledger isn't empty: it already has all {count:,} events of the file.")
        fill(ledger, records(from_start(file)), count, progress)
        return count


def _verify(file: BinaryIO, path: Path, progress: Progress) -> int:
    size, count = os.fstat(file.fileno()).st_size, 0
    try:
        for record in records(from_start(file)):
            count = record.position
            if record.at > LAST_TIME:
                raise TransferError(
                    f"The event at position {count:,} of {path} has a time after the year 9999. Nothing was "
                    "written. If your ledger has it, use `keyledger backup` and `keyledger restore` instead."
                )
            if count % _PAGE == 0:
                progress(count, count * size // file.tell())
    except DamagedFileError as error:
        raise TransferError(f"{path} isn't a complete export. {error} Nothing was written.") from error
    return count


def held_of(events: Iterator[Record], count: int, ledger: Ledger) -> int:
    """How many of the `count` events the ledger already has.

    It has none, or the first ones after an interrupted import. Raises TransferError if it has anything else.
    """
    if ledger.is_untouched():
        return 0
    head = ledger.head().position
    if not 0 < head <= count or not _begins_with(ledger, islice(events, head)):
        raise TransferError(
            f"The ledger isn't empty: it has {head:,} events that aren't those of the file. "
            "Use a new data directory or store."
        )
    return head


def fill(ledger: Ledger, events: Iterator[Record], count: int, progress: Progress) -> None:
    """Writes those of the `count` events that the ledger doesn't have. Raises TransferError."""
    head = ledger.head().position
    try:
        for page in _pages(event for event in events if event.position > head):
            ledger.fill(page[0].position - 1, page)
            progress(page[-1].position, count)
    except UnexpectedHeadError as error:
        raise TransferError(
            "Another process wrote to the ledger, so it no longer matches the file: stop all of Keyledger's "
            "processes on this store, and start over with a new data directory or store."
        ) from error
    except NotReplicatedError as error:
        raise TransferError(f"{error} in time. Check the replicas, then run it again.") from error
    except DamagedFileError as error:
        raise TransferError(
            f"The file changed while it was read. {error} Start over with a new data directory or store."
        ) from error


def read_until(last: int, ledger: Ledger, progress: Progress) -> Iterator[Record]:
    """All events up to a position. Raises ExportError."""
    position = 0
    while position < last:
        page = ledger.read(position, min(_PAGE, last - position))
        if not page:
            raise ExportError("The ledger went backwards. Run it again.")
        yield from page
        position = page[-1].position
        progress(position, last)


def from_start(file: BinaryIO) -> BinaryIO:
    """Rewinds a file, and returns it."""
    file.seek(0)
    return file


def _begins_with(ledger: Ledger, events: Iterator[Record]) -> bool:
    return all(page == ledger.read(page[0].position - 1, len(page)) for page in _pages(events))


def _pages(events: Iterator[Record]) -> Iterator[list[Record]]:
    while page := list(islice(events, _PAGE)):
        yield page
