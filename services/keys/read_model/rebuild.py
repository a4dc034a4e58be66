"""Replay: the views built anew beside the old ones and put in their place, or only compared with them."""

import gc
import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from hiredis import pack_command

from services.keys.model.key import Key
from services.keys.read_model.generations import Generation, Lease, Views
from services.keys.read_model.projection import NOT_A_KEY, Changes, Read, key_ids, project, read
from shared.errors import UserFacingError
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import BEGINNING, Checkpoint, Ledger, checkpoint_at

_PAGE = 500  # events or keys that are written in one step: each step waits for the disk
_ANSWER = 100  # events read at once: about as much as the store sends, the rest waits for its next turn
_AHEAD = 2  # pages whose rows are asked for before those of a page are folded
_HOLD_S = 60
_HOLD_EVERY = 20_000  # entries after which the hold is kept for longer
_OLD_GENERATION_S = 2.0  # how long readers may go on with the old generation
_NAMED_DIFFERENCES = 20
_REPORT_EVERY_S = 0.2
_NOT_ALONE = "Somebody else wrote to the views that were being built. Run it again."

Progress = Callable[[int, int], None]  # events done, events in the ledger


class RebuildError(UserFacingError):
    """The views could not be rebuilt; the old ones still serve."""


@dataclass(frozen=True)
class Comparison:
    """The live views beside a copy that was built from the beginning to the same position."""

    position: int
    live_digest: str
    copy_digest: str
    differing: list[str]  # the first of the things that differ, by name

    @property
    def equal(self) -> bool:
        """Whether there is no difference."""
        return self.live_digest == self.copy_digest


def _silently(_done: int, _all: int) -> None:
    pass


def replay(ledger: Ledger, views: Views, progress: Progress = _silently) -> int:
    """Builds a new generation while the old one serves, then makes it the live one; gives its position.

    Interrupted anywhere, it can be run again. Raises RebuildError, redis.RedisError.
    """
    with views.lease() as lease:
        old, new = views.live(), _another(views)
        views.delete_all_but(old)
        while True:
            _build(ledger, new, lease, progress)
            lease.extend()
            if not ledger.holds(new.checkpoint()):
                raise RebuildError("The ledger went backwards meanwhile. Run it again.")
            # Views of events that the ledger has no more are ahead of it, and must go all the same.
            if views.flip(lease, old, new, even_if_behind=not ledger.holds(old.checkpoint())):
                break
            if views.live() != old:
                raise RebuildError("Another replay finished first. There is nothing left to do.")
        position = new.checkpoint().position
        time.sleep(_OLD_GENERATION_S)
        views.delete_all_but(new)
    return position


def check(ledger: Ledger, views: Views, progress: Progress = _silently) -> Comparison:
    """Compares the live views with a copy built from the beginning, which is thrown away afterwards.

    The projectors are held only while the last events are added and the rows are compared.
    Raises RebuildError, redis.RedisError.
    """
    with views.lease() as lease:
        live, copy = views.live(), _another(views)
        views.delete_all_but(live)
        try:
            _build(ledger, copy, lease, progress, until=live.checkpoint().position)
            live.hold(_HOLD_S)
            _build(ledger, copy, lease, progress, until=live.checkpoint().position)
            return _compare(live, copy, lease)
        finally:
            live.release()
            copy.delete()


def _another(views: Views) -> Generation:
    # Its name is short, for it stands in that of every row.
    return views.generation(secrets.token_hex(4))


def _build(
    ledger: Ledger, generation: Generation, lease: Lease, progress: Progress, until: int | None = None
) -> None:
    """Brings a generation up to a position, or to the ledger's head. Strict: no key is parked.

    A new one gets its index when it has all its rows, so that each key is put into it once, as it is then.
    """
    checkpoint = generation.checkpoint()
    report = _Report(ledger, lease, progress)
    with (
        _without_collector(),
        _Writer(generation) as writer,
        _Reader(generation) as reader,
        closing(ledger.pages(checkpoint.position, min(_ANSWER, _PAGE))) as pages,
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
    """What pages change, some of them together, and where they end. Raises RebuildError."""
    # What the last pages made of rows: it may not have been written when those of a page were asked for.
    recent = deque[dict[str, Key]](maxlen=_AHEAD + 1)
    changes, count, reached = Changes(), 0, BEGINNING
    for page in reader.ahead(pages):
        rows = reader.rows()
        for written in recent:
            rows.update({key_id: written[key_id] for key_id in written.keys() & page.key_ids})
        project(page.events, rows, (), changes)
        for key_id, reason in changes.parked.items():
            if reason == NOT_A_KEY:  # no version can read it
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
    """Says how far a rebuild is and keeps its lease, every now and then."""

    def __init__(self, ledger: Ledger, lease: Lease, progress: Progress) -> None:
        self._ledger, self._lease, self._progress = ledger, lease, progress
        self._next = 0.0

    def at(self, checkpoint: Checkpoint) -> None:
        """The rebuild got here. Raises LeaseTakenError."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _REPORT_EVERY_S
            self._lease.extend()
            self._progress(checkpoint.position, self._ledger.head().position)


class _ReadPage(NamedTuple):
    """Some events, and which keys they are about."""

    records: list[Record]
    events: list[Read]
    key_ids: set[str]


class _Reader:
    """Reads the rows that pages are folded into, those of each while the pages before are folded."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._asked: deque[list[str]] = deque()

    def __enter__(self) -> Self:
        # Any: redis-py publishes no types of a single connection.
        self._connection: Any = self._generation.store.connection_pool.get_connection()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.disconnect()  # answers may be under way
        self._generation.store.connection_pool.release(self._connection)

    def ahead(self, pages: Iterable[list[Record]]) -> Iterator[_ReadPage]:
        """Pages with their events. The rows of each are to be read before the next is taken."""
        waiting = deque[_ReadPage]()
        for records in pages:
            events = read(records)
            page = _ReadPage(records, events, key_ids(events))
            self._ask(page.key_ids)
            waiting.append(page)
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        yield from waiting

    def rows(self) -> dict[str, Key]:
        """The rows of a page as they were when the pages before were not yet folded."""
        return self._generation.decoded(self._connection.read_response() if self._asked.popleft() else ())

    def unindexed(self) -> Iterator[dict[str, Key]]:
        """The rows that are not in the index, page by page, each page once. Each is read while the one
        before is worked on.
        """
        waits = False
        for some in self._generation.unindexed(_PAGE):
            self._ask(some)
            if waits:
                yield self.rows()
            waits = True
        if waits:
            yield self.rows()

    def _ask(self, key_ids: Iterable[str]) -> None:
        names = self._generation.row_names(key_ids)
        if names:
            command: tuple[Any, ...] = ("MGET", *names)
            self._connection.send_packed_command([pack_command(command)])
        self._asked.append(names)


class _Writer:
    """Writes pages into a generation, each while the next one is decoded.

    A page goes out as one transaction together with the look that guards the next one: WATCH, and the
    values of what is watched. So each page costs one round trip, which nobody waits for.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._look = [("WATCH", *generation.guards), ("MGET", *generation.guards)]
        self._expected_answers = 0
        self._guards: list[bytes | None] = []

    def __enter__(self) -> Self:
        # Any: redis-py publishes no types of a single connection.
        self._connection: Any = self._generation.store.connection_pool.get_connection()
        self._send(_packed(self._look))
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.disconnect()  # it watches, and answers may be under way
        self._generation.store.connection_pool.release(self._connection)

    def begin(self, expected: Checkpoint, commands: Iterable[tuple[Any, ...]]) -> None:
        """Sends a page, once the one before is written. Raises RebuildError if somebody else wrote."""
        page = _packed([("MULTI",), *commands, ("EXEC",), *self._look])  # while the store still writes
        self.finish()
        if not self._generation.may_write(expected, self._guards):
            raise RebuildError(_NOT_ALONE)
        self._send(page)

    def finish(self) -> None:
        """Waits until all is written. Raises RebuildError if it was not."""
        answers = [self._connection.read_response() for _ in range(self._expected_answers)]
        self._expected_answers = 0
        if answers:
            *transaction, _watch, self._guards = answers
            if transaction and transaction[-1] is None:
                raise RebuildError(_NOT_ALONE)

    def _send(self, commands: list[bytes]) -> None:
        self._connection.send_packed_command([b"".join(commands)])
        self._expected_answers = len(commands)


def _packed(commands: Iterable[tuple[Any, ...]]) -> list[bytes]:
    """Not by redis-py's packing, which looks at each argument once more."""
    return list(map(pack_command, commands))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing that a rebuild makes refers to itself, and looking for what does costs a tenth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _compare(live: Generation, copy: Generation, lease: Lease) -> Comparison:
    live_digest, copy_digest = _digest(live, live, lease), _digest(copy, live, lease)
    differing = set[bytes]()
    if live_digest != copy_digest:
        left = {name: hash(value) for name, value in live.entries()}
        differing.update(name for name, value in copy.entries() if left.pop(name, None) != hash(value))
        differing.update(left)
    named = [name.decode(errors="backslashreplace") for name in sorted(differing)[:_NAMED_DIFFERENCES]]
    return Comparison(live.checkpoint().position, live_digest, copy_digest, named)


def _digest(generation: Generation, held: Generation, lease: Lease) -> str:
    """A sum of SHA-256 over all that a generation holds: the same in any order, under any name."""
    total = 0
    for count, (name, value) in enumerate(generation.entries()):
        sha = hashlib.sha256(len(name).to_bytes(4) + name + value)
        total += int.from_bytes(sha.digest())
        if count % _HOLD_EVERY == 0:
            _keep(held, lease)
    _keep(held, lease)
    return f"{total % 2**256:064x}"


def _keep(held: Generation, lease: Lease) -> None:
    lease.extend()
    if not held.extend_hold(_HOLD_S):
        raise RebuildError("The views could not be held still for as long as it took. Check them again.")
