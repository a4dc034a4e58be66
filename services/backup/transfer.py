"""Moving house: the whole ledger to a file, and from a file into an empty ledger."""

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

Progress = Callable[[int, int], None]  # events done, events in all, which may be an estimate


class TransferError(UserFacingError):
    """What was to be moved cannot be; the message is one line that says what to do."""


def export_file(ledger: Ledger, path: Path | None, progress: Progress) -> int:
    """Writes what the ledger holds at this moment, and gives how many events that are.

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
    """Fills an empty ledger with the events of a file, and gives how many those are.

    The file is read twice, and nothing is written before it is known to be whole. An import that was
    interrupted is gone on with: then the ledger holds the first events of the file and nothing else.
    A time after the year 9999 is refused, for no later event may have an earlier one.
    Raises TransferError, FileError, redis.RedisError.
    """
    with source(path) as file:
        count = _verify(file, path, progress)
        if held_of(records(from_start(file)), count, ledger) == count > 0:
            raise TransferError(
                f"The ledger is not empty: it holds all {count:,} events of the file already."
            )
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
                    "written. If your ledger holds it, move with `keyledger backup` and `keyledger restore`."
                )
            if count % _PAGE == 0:
                progress(count, count * size // file.tell())
    except DamagedFileError as error:
        raise TransferError(f"{path} is not a whole export. {error} Nothing was written.") from error
    return count


def held_of(events: Iterator[Record], count: int, ledger: Ledger) -> int:
    """How many of these events, which are so many, the ledger holds already.

    That is none, or the first of them, as an interrupted import leaves it. Raises TransferError if it holds
    anything else.
    """
    if ledger.is_untouched():
        return 0
    head = ledger.head().position
    if not 0 < head <= count or not _begins_with(ledger, islice(events, head)):
        raise TransferError(
            f"The ledger is not empty: it holds {head:,} events that are not those of the file. "
            "Take a new data directory or store."
        )
    return head


def fill(ledger: Ledger, events: Iterator[Record], count: int, progress: Progress) -> None:
    """Writes those of the events, which are so many, that the ledger does not hold. Raises TransferError."""
    head = ledger.head().position
    try:
        for page in _pages(event for event in events if event.position > head):
            ledger.fill(page[0].position - 1, page)
            progress(page[-1].position, count)
    except UnexpectedHeadError as error:
        raise TransferError(
            "Somebody else wrote to the ledger meanwhile, so it is not that of the file: "
            "stop every Keyledger on this store, and begin again with a new data directory or store."
        ) from error
    except NotReplicatedError as error:
        raise TransferError(f"{error} in time: look after the replicas, then run it again.") from error
    except DamagedFileError as error:
        raise TransferError(
            f"The file was changed while it was read. {error} Begin again with a new data directory or store."
        ) from error


def read_until(last: int, ledger: Ledger, progress: Progress) -> Iterator[Record]:
    """All events up to a position. Raises ExportError."""
    position = 0
    while position < last:
        page = ledger.read(position, min(_PAGE, last - position))
        if not page:
            raise ExportError("The ledger went backwards meanwhile. Run it again.")
        yield from page
        position = page[-1].position
        progress(position, last)


def from_start(file: BinaryIO) -> BinaryIO:
    """The same file, to be read once more."""
    file.seek(0)
    return file


def _begins_with(ledger: Ledger, events: Iterator[Record]) -> bool:
    return all(page == ledger.read(page[0].position - 1, len(page)) for page in _pages(events))


def _pages(events: Iterator[Record]) -> Iterator[list[Record]]:
    while page := list(islice(events, _PAGE)):
        yield page
