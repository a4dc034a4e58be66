"""The views of keys in Redis: a row for each key and the index of each workspace, by generations.

A generation is a whole copy of the views with its own checkpoint. Each projection version has a pointer to
its live generation, so that two versions of the code can run side by side.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from redis import Redis, WatchError

from services.keys.model.key import Key
from services.keys.read_model.criteria import ALL, Criteria
from services.keys.read_model.index import moves
from services.keys.read_model.projection import VERSION, Changes, Read, key_ids, project
from services.keys.read_model.query import Listing, Page
from shared.clock import now_ms
from shared.eventstore.ledger import NAMESPACE, Checkpoint

ROOT = f"{NAMESPACE}:view:{VERSION}:"
POINTER = f"{ROOT}live"
_SCAN_PAGE = 1_000
_BATCH_SIZE = 500  # rows or members in one command, so that it doesn't block the store
_UNINDEXED_BATCH = 5_000  # keys that a rebuild reads at once to index them
_WAIT_S = 2.0
_POLL_S = 0.005

_T = TypeVar("_T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Key).decode


class Entry(NamedTuple):
    """A row, a member of the index or a parked key, for comparing two generations."""

    name: bytes
    value: bytes


@dataclass(frozen=True)
class Generation:
    """One whole copy of the views."""

    store: Redis
    name: str

    @property
    def checkpoint_key(self) -> str:
        return self._key("checkpoint")

    def checkpoint(self) -> Checkpoint:
        return Checkpoint.parse(cast("bytes | None", self.store.get(self.checkpoint_key)))

    def parked(self) -> dict[str, str]:
        """The keys with an event that could not be applied, and the reason."""
        found = cast("dict[bytes, bytes]", self.store.hgetall(self._key("parked")))
        return {key_id.decode(): reason.decode() for key_id, reason in found.items()}

    def rows(self, key_ids: Iterable[str]) -> dict[str, Key]:
        """The rows of these keys; missing ones are left out."""
        names = self.row_names(key_ids)
        values = cast("Iterator[list[bytes | None]]", map(self.store.mget, _batches(names, _BATCH_SIZE)))
        return self.decoded(chain.from_iterable(values))

    def row_names(self, key_ids: Iterable[str]) -> list[str]:
        """The store's keys of these rows."""
        row = self._row("")
        return [row + key_id for key_id in key_ids]

    @staticmethod
    def decoded(values: Iterable[bytes | None]) -> dict[str, Key]:
        """Stored rows by the IDs of their keys; missing ones are left out."""
        return {key.id: key for key in map(_decode, filter(None, values))}

    def changes(self, events: Sequence[Read]) -> Changes:
        """What a page of events changes in this generation."""
        changes = Changes()
        project(events, self.rows(key_ids(events)), self.parked(), changes)
        return changes

    def save(self, expected: Checkpoint, changes: Changes, reached: Checkpoint) -> bool:
        """Writes the changes and the checkpoint in one atomic step.

        Returns False and writes nothing if the checkpoint isn't the expected one or the views are held.
        """
        with cast("Any", self.store.pipeline()) as pipe:
            pipe.watch(*self.guards)
            if not self.may_write(expected, pipe.mget(*self.guards)):
                return False
            pipe.multi()
            for command in self.commands(changes, reached):
                pipe.execute_command(*command)
            try:
                pipe.execute()
            except WatchError:
                return False
            return True

    @property
    def guards(self) -> tuple[str, str]:
        """The store's keys that must not change before a write: the checkpoint, and the hold."""
        return self.checkpoint_key, self._key("hold")

    def may_write(self, expected: Checkpoint, guards: Sequence[bytes | None]) -> bool:
        """Whether the values of the guards allow a write after this checkpoint."""
        checkpoint, hold = guards
        return Checkpoint.parse(checkpoint) == expected and hold is None

    def commands(
        self, changes: Changes, reached: Checkpoint, *, indexed: bool = True
    ) -> Iterator[tuple[Any, ...]]:
        """The commands that write a page. If not `indexed`, new keys are listed to be indexed later."""
        row = self._row("")
        if changes.rows:
            values = map(_encode, changes.rows.values())
            yield (
                "MSET",
                *chain.from_iterable(zip([row + key_id for key_id in changes.rows], values, strict=True)),
            )
        if indexed:
            yield from self.index_commands(changes.rows.values(), changes.before)
        elif new := [key_id for key_id in changes.rows if key_id not in changes.before]:
            yield "RPUSH", self._key("unindexed"), *new
        if changes.parked:
            yield "HSET", self._key("parked"), *chain.from_iterable(changes.parked.items())
        if changes.unparked:
            yield "HDEL", self._key("parked"), *changes.unparked
        yield "SET", self.checkpoint_key, reached.stored

    def index_commands(self, rows: Iterable[Key], before: Mapping[str, Key]) -> Iterator[tuple[Any, ...]]:
        """The commands that replace the index members of the rows in `before` by those of `rows`."""
        removed: dict[tuple[str, str], list[str]] = defaultdict(list)
        added: dict[tuple[str, str], list[str | int]] = defaultdict(list)
        for row in rows:
            old, new = moves(before.get(row.id), row)
            for kind, member, _ in old:
                removed[row.workspace, kind].append(member)
            for kind, member, score in new:
                added[row.workspace, kind] += score, member
        for where, members in removed.items():
            for batch in _batches(members, _BATCH_SIZE):
                yield "ZREM", self._index(*where), *batch
        for where, scored in added.items():
            for pairs in _batches(scored, 2 * _BATCH_SIZE):
                yield "ZADD", self._index(*where), *pairs

    def unindexed(self, batch: int) -> Iterator[Sequence[str]]:
        """The keys that are not in the index yet, in batches. They are removed from the list of those."""
        while found := cast("list[bytes] | None", self.store.lpop(self._key("unindexed"), _UNINDEXED_BATCH)):
            yield from _batches([key_id.decode() for key_id in found], batch)

    def all_rows(self) -> Iterator[Key]:
        """All rows, in no order. One that is written in the meantime may come twice."""
        row = self._row("").encode()
        for names in self._scan():
            rows = [name for name in names if name.startswith(row)]
            values = cast("list[bytes | None]", self.store.mget(rows) if rows else [])
            yield from self.decoded(values).values()

    def find(self, key_id: str) -> tuple[Key | None, int]:
        """One row, and the ledger position of this generation."""
        checkpoint, row = cast("list[bytes | None]", self.store.mget(self.checkpoint_key, self._row(key_id)))
        return None if row is None else _decode(row), Checkpoint.parse(checkpoint).position

    def page(self, workspace: str, limit: int, cursor: str | None, criteria: Criteria) -> Page:
        """The next page of a workspace's keys.

        The number of keys that it searches is limited: if few match, a page can be short and not the last.
        """
        listing = Listing(self.store, partial(self._index, workspace), self.rows, workspace, now_ms())
        return listing.page(limit, cursor, criteria)

    def entries(self) -> Iterator[Entry]:
        """Its rows, index members and parked keys."""
        own, row, index = (self._key(kind).encode() for kind in ("", "key:", "index:"))
        seen = set[bytes]()
        for names in self._scan():
            # A scan can return a name twice while the store's table grows.
            new = [name for name in dict.fromkeys(names) if name not in seen]
            seen.update(new)
            rows = [name for name in new if name.startswith(row)]
            values = cast("list[bytes]", self.store.mget(rows) if rows else [])
            for name, value in zip(rows, values, strict=True):
                yield Entry(name[len(own) :], value)
            for name in new:
                if name.startswith(index):
                    for member, score in self._members(name):
                        yield Entry(b"%b:%b" % (name[len(own) :], member), b"%d" % score)
        for key_id, reason in self.parked().items():
            yield Entry(f"parked:{key_id}".encode(), reason.encode())

    def hold(self, seconds: int) -> None:
        """Stops all projectors from changing it until it is released or the time is over."""
        self.store.set(self._key("hold"), "1", ex=seconds)

    def extend_hold(self, seconds: int) -> bool:
        """Extends a hold. Returns False if it ran out, so that a projector may have written."""
        return bool(self.store.expire(self._key("hold"), seconds))

    def release(self) -> None:
        self.store.delete(self._key("hold"))

    def delete(self) -> None:
        """Deletes it page by page, so that the store isn't blocked.

        The checkpoint is deleted last, because `Views.delete_all_but` finds generations by it.
        """
        for names in self._scan():
            others = [name for name in names if name != self.checkpoint_key.encode()]
            if others:
                self.store.unlink(*others)
        self.store.unlink(self.checkpoint_key)

    def _members(self, name: bytes) -> Iterator[tuple[bytes, float]]:
        """The members of a sorted set, each once if it doesn't change in the meantime."""
        first = 0
        while found := self.store.zrange(name, first, first + _SCAN_PAGE - 1, withscores=True):
            yield from cast("list[tuple[bytes, float]]", found)
            first += _SCAN_PAGE

    def _scan(self) -> Iterator[list[bytes]]:
        cursor = 0
        while True:
            # The namespace has no characters with a meaning in patterns.
            reply = self.store.scan(cursor, match=self._key("*"), count=_SCAN_PAGE)
            cursor, names = cast("tuple[int, list[bytes]]", reply)
            if names:
                yield names
            if cursor == 0:
                return

    def _key(self, name: str) -> str:
        return f"{ROOT}{self.name}:{name}"

    def _row(self, key_id: str) -> str:
        return self._key(f"key:{key_id}")

    def _index(self, workspace: str, kind: str) -> str:
        return self._key(f"index:{kind}:{workspace}")


@dataclass(frozen=True)
class Views:
    """The live generation, which readers see."""

    store: Redis

    def live(self) -> Generation:
        """The generation that the pointer names. Without a pointer, it is called “first”."""
        name = cast("bytes | None", self.store.get(POINTER))
        return self.generation(name.decode() if name else "first")

    def generation(self, name: str) -> Generation:
        """A generation by its name, whether it exists or not."""
        return Generation(self.store, name)

    def find(self, key_id: str) -> tuple[Key | None, int]:
        """One key, and the ledger position of the views."""
        return self._read(lambda live: live.find(key_id), lambda found: found[0] is None)

    def page(self, workspace: str, limit: int, cursor: str | None = None, criteria: Criteria = ALL) -> Page:
        """A page of a workspace's keys."""
        empty = Page([], None)
        return self._read(
            lambda live: live.page(workspace, limit, cursor, criteria), lambda page: page == empty
        )

    def wait_for(self, position: int) -> bool:
        """Waits up to 2 s for the views to reach a position. Returns whether they have."""
        deadline = time.monotonic() + _WAIT_S
        while self.live().checkpoint().position < position:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def delete_all_but(self, kept: Generation) -> None:
        """Deletes what interrupted and finished rebuilds left. Only the holder of the lease may do this."""
        checkpoints = self.store.scan_iter(f"{ROOT}*:checkpoint", count=_SCAN_PAGE)
        names = {name.decode().removeprefix(ROOT).split(":")[0] for name in checkpoints}
        for name in names - {kept.name}:
            self.generation(name).delete()

    def _read(self, read: Callable[[Generation], _T], is_missing: Callable[[_T], bool]) -> _T:
        """Reads again if nothing was found because the generation was replaced."""
        live = self.live()
        while is_missing(found := read(live)) and (now_live := self.live()) != live:
            live = now_live
        return found


def _batches(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
