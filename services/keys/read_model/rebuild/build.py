"""Builds a generation from the ledger as fast as the store writes: reads, folds and writes overlap."""

import gc
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, Self

from hiredis import pack_command

from services.keys.model.key import Key
from services.keys.read_model.generations import Generation
from services.keys.read_model.projection import NOT_A_KEY, Changes, Read, key_ids, project, read
from services.keys.read_model.rebuild.lease import Lease
from shared.errors import UserFacingError
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import BEGINNING, Checkpoint, Ledger, checkpoint_at

_PAGE = 500  # events or keys in one write: each write waits for the disk
_READ_PAGE = 100  # events read at once: about as much as the store sends in one go
_AHEAD = 2  # pages whose rows are requested before a page is folded
_REPORT_EVERY_S = 0.2
_NOT_ALONE = "Another process wrote to the views that were being built. Run it again."

Progress = Callable[[int, int], None]  # events done, events in the ledger


class RebuildError(UserFacingError):
    """The views could not be rebuilt. The old ones stay in use."""


def build(
    ledger: Ledger, generation: Generation, lease: Lease, progress: Progress, until: int | None = None
) -> None:
    """Brings a generation up to a position, or to the ledger's end. Strict: no key is parked.

    A new generation is indexed when it has all its rows, so that each key is indexed once.
    """
    checkpoint = generation.checkpoint()
    report = _Report(ledger, lease, progress)
    with (
        _without_garbage_collector(),
        _Writer(generation) as writer,
        _Reader(generation) as reader,
        closing(ledger.pages(checkpoint.position, min(_READ_PAGE, _PAGE))) as pages,
    ):
        is_new = checkpoint == BEGINNING
        for changes, reached in _folded(reader, _until(until, pages)):
            writer.begin(checkpoint, generation.commands(changes, reached, indexed=not is_new))
            checkpoint = reached
            report.at(checkpoint)
        writer.finish()
        for rows in reader.unindexed():
            writer.begin(checkpoint, generation.index_commands(rows.values(), {}))
            report.at(checkpoint)
        writer.finish()
    progress(checkpoint.position, checkpoint.position)


def _folded(reader: "_Reader", pages: Iterable[list[Record]]) -> Iterator[tuple[Changes, Checkpoint]]:
    """What pages change, and the checkpoint after them. Small pages are merged. Raises RebuildError."""
    # The rows that the last pages changed: they may not have been written when a page's rows were requested.
    recent = deque[dict[str, Key]](maxlen=_AHEAD + 1)
    changes, count, reached = Changes(), 0, BEGINNING
    for page in reader.ahead(pages):
        rows = reader.rows()
        for written in recent:
            rows.update({key_id: written[key_id] for key_id in written.keys() & page.key_ids})
        project(page.events, rows, (), changes)
        for key_id, reason in changes.parked.items():
            if reason == NOT_A_KEY:  # no version can apply it
                continue
            raise RebuildError(
                f"Key {key_id} cannot be rebuilt: {reason}. The old views still serve. "
                "Run the version of Keyledger that wrote this event."
            )
        count, reached = count + len(page.records), checkpoint_at(page.records)
        if count >= _PAGE:
            recent.append(changes.rows)
            yield changes, reached
            changes, count = Changes(), 0
    if count:
        yield changes, reached


def _until(position: int | None, pages: Iterable[list[Record]]) -> Iterator[list[Record]]:
    for page in pages:
        records = page if position is None else [record for record in page if record.position <= position]
        if not records:
            return
        yield records


class _Report:
    """Reports progress and extends the lease, every 0.2 s."""

    def __init__(self, ledger: Ledger, lease: Lease, progress: Progress) -> None:
        self._ledger, self._lease, self._progress = ledger, lease, progress
        self._next = 0.0

    def at(self, checkpoint: Checkpoint) -> None:
        """Raises LeaseTakenError."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _REPORT_EVERY_S
            self._lease.extend()
            self._progress(checkpoint.position, self._ledger.head().position)


class _ReadPage(NamedTuple):
    """Events, and the keys that they are about."""

    records: list[Record]
    events: list[Read]
    key_ids: set[str]


class _Reader:
    """Reads the rows that each page is folded into, while earlier pages are folded."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._requested: deque[list[str]] = deque()

    def __enter__(self) -> Self:
        # Any: redis-py publishes no types of a single connection.
        self._connection: Any = self._generation.store.connection_pool.get_connection()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.disconnect()  # replies may still arrive
        self._generation.store.connection_pool.release(self._connection)

    def ahead(self, pages: Iterable[list[Record]]) -> Iterator[_ReadPage]:
        """Decodes pages. Call `rows` for each before you take the next."""
        waiting = deque[_ReadPage]()
        for records in pages:
            events = read(records)
            page = _ReadPage(records, events, key_ids(events))
            self._request(page.key_ids)
            waiting.append(page)
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting

    def rows(self) -> dict[str, Key]:
        """The rows of a page as they were before earlier pages were folded."""
        return self._generation.decoded(self._connection.read_response() if self._requested.popleft() else ())

    def unindexed(self) -> Iterator[dict[str, Key]]:
        """The rows that are not in the index yet, in pages. Each is read while the one before is handled."""
        waits = False
        for some in self._generation.unindexed(_PAGE):
            self._request(some)
            if waits:
                yield self.rows()
            waits = True
        if waits:
            yield self.rows()

    def _request(self, key_ids: Iterable[str]) -> None:
        names = self._generation.row_names(key_ids)
        if names:
            command: tuple[Any, ...] = ("MGET", *names)
            self._connection.send_packed_command([pack_command(command)])
        self._requested.append(names)


class _Writer:
    """Writes pages into a generation, each while the next one is decoded.

    A page is sent as one transaction, followed by the commands that guard the next page: WATCH, and MGET of
    what is watched. Each page costs one round trip, which the next page's decoding overlaps.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._look = [("WATCH", *generation.guards), ("MGET", *generation.guards)]
        self._pending_replies = 0
        self._guards: list[bytes | None] = []

    def __enter__(self) -> Self:
        # Any: redis-py publishes no types of a single connection.
        self._connection: Any = self._generation.store.connection_pool.get_connection()
        self._send(_packed(self._look))
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.disconnect()  # it watches keys, and replies may still arrive
        self._generation.store.connection_pool.release(self._connection)

    def begin(self, expected: Checkpoint, commands: Iterable[tuple[Any, ...]]) -> None:
        """Sends a page after the one before is written. Raises RebuildError if something else wrote."""
        page = _packed(
            [("MULTI",), *commands, ("EXEC",), *self._look]
        )  # packed while the store writes the page before
        self.finish()
        if not self._generation.may_write(expected, self._guards):
            raise RebuildError(_NOT_ALONE)
        self._send(page)

    def finish(self) -> None:
        """Waits until all is written. Raises RebuildError if something else wrote."""
        replies = [self._connection.read_response() for _ in range(self._pending_replies)]
        self._pending_replies = 0
        if replies:
            *transaction, _watch, self._guards = replies
            if transaction and transaction[-1] is None:
                raise RebuildError(_NOT_ALONE)

    def _send(self, commands: list[bytes]) -> None:
        self._connection.send_packed_command([b"".join(commands)])
        self._pending_replies = len(commands)


def _packed(commands: Iterable[tuple[Any, ...]]) -> list[bytes]:
    """Faster than redis-py's packing, which converts each argument again."""
    return list(map(pack_command, commands))


@contextmanager
def _without_garbage_collector() -> Iterator[None]:
    """A rebuild creates no reference cycles, and searching for them would take a tenth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
