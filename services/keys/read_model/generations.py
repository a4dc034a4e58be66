"""The read models of keys in Redis: one row a key and the index of each workspace, by generations.

A generation is a whole copy of the views with a checkpoint of its own. Each projection version has a
pointer to its live one, so that two versions of the code can run side by side.
"""

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
from shared.errors import UserFacingError
from shared.eventstore.ledger import NAMESPACE, Checkpoint

_ROOT = f"{NAMESPACE}:view:{VERSION}:"
_POINTER = f"{_ROOT}live"
_LEASE = f"{_ROOT}rebuild"
_LEASE_S = 15
_SCAN_PAGE = 1_000
_A_TIME = 500  # rows or members that one command reads or writes, so that it holds the store for a moment
_NOTED = 5_000  # keys that a rebuild takes up at once, to write them into the index
_WAIT_S = 2.0
_POLL_S = 0.005

_T = TypeVar("_T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Key).decode


class Entry(NamedTuple):
    """One thing that a generation holds, whatever its order: for comparing two of them."""

    name: bytes
    value: bytes


@dataclass(frozen=True)
class Generation:
    """One whole copy of the views."""

    store: Redis
    name: str

    @property
    def checkpoint_key(self) -> str:
        """Where its checkpoint lies."""
        return self._key("checkpoint")

    def checkpoint(self) -> Checkpoint:
        """How far it is built."""
        return Checkpoint.parse(cast("bytes | None", self.store.get(self.checkpoint_key)))

    def parked(self) -> dict[str, str]:
        """The keys set aside because of an event that could not be applied, with the reason."""
        found = cast("dict[bytes, bytes]", self.store.hgetall(self._key("parked")))
        return {key_id.decode(): reason.decode() for key_id, reason in found.items()}

    def rows(self, key_ids: Iterable[str]) -> dict[str, Key]:
        """The rows of these keys, as far as there are any."""
        names = self.row_names(key_ids)
        values = cast("Iterator[list[bytes | None]]", map(self.store.mget, _parted(names, _A_TIME)))
        return self.decoded(chain.from_iterable(values))

    def row_names(self, key_ids: Iterable[str]) -> list[str]:
        """Where the rows of these keys lie."""
        row = self._row("")
        return [row + key_id for key_id in key_ids]

    @staticmethod
    def decoded(values: Iterable[bytes | None]) -> dict[str, Key]:
        """Rows as they are stored, by their keys; those that are missing are left out."""
        return {key.id: key for key in map(_decode, filter(None, values))}

    def changes(self, events: Sequence[Read]) -> Changes:
        """What a page of events changes here."""
        changes = Changes()
        project(events, self.rows(key_ids(events)), self.parked(), changes)
        return changes

    def save(self, expected: Checkpoint, changes: Changes, reached: Checkpoint) -> bool:
        """Writes the changes and the checkpoint in one atomic step; False, and nothing written, if the
        checkpoint is no longer the expected one or somebody holds the views still.
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
        """What nobody else may touch between the look and the write: the checkpoint, and the hold."""
        return self.checkpoint_key, self._key("hold")

    def may_write(self, expected: Checkpoint, guards: Sequence[bytes | None]) -> bool:
        """Whether the values of the guards allow who expects this checkpoint to write."""
        checkpoint, hold = guards
        return Checkpoint.parse(checkpoint) == expected and hold is None

    def commands(
        self, changes: Changes, reached: Checkpoint, *, indexed: bool = True
    ) -> Iterator[tuple[Any, ...]]:
        """The writes of a page, as commands of the store. If not to the index, new keys are noted for it."""
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
        if changes.taken_up:
            yield "HDEL", self._key("parked"), *changes.taken_up
        yield "SET", self.checkpoint_key, reached.stored

    def index_commands(self, rows: Iterable[Key], before: Mapping[str, Key]) -> Iterator[tuple[Any, ...]]:
        """What rows make of the index; before there may have been others."""
        gone: dict[tuple[str, str], list[str]] = defaultdict(list)
        come: dict[tuple[str, str], list[str | int]] = defaultdict(list)
        for row in rows:
            old, new = moves(before.get(row.id), row)
            for kind, member, _ in old:
                gone[row.workspace, kind].append(member)
            for kind, member, score in new:
                come[row.workspace, kind] += score, member
        for where, members in gone.items():
            for some in _parted(members, _A_TIME):
                yield "ZREM", self._index(*where), *some
        for where, scored in come.items():
            for few in _parted(scored, 2 * _A_TIME):
                yield "ZADD", self._index(*where), *few

    def unindexed(self, some: int) -> Iterator[Sequence[str]]:
        """The keys that were noted not to be in the index, some at a time; the notes are gone then."""
        while noted := cast("list[bytes] | None", self.store.lpop(self._key("unindexed"), _NOTED)):
            yield from _parted([key_id.decode() for key_id in noted], some)

    def all_rows(self) -> Iterator[Key]:
        """All rows, in no order; one that is written meanwhile may come twice."""
        row = self._row("").encode()
        for names in self._scan():
            rows = [name for name in names if name.startswith(row)]
            values = cast("list[bytes | None]", self.store.mget(rows) if rows else [])
            yield from self.decoded(values).values()

    def find(self, key_id: str) -> tuple[Key | None, int]:
        """One row, and the position of the ledger to which it is built."""
        found = self.store.mget(self.checkpoint_key, self._row(key_id))
        checkpoint, row = cast("list[bytes | None]", found)
        return None if row is None else _decode(row), Checkpoint.parse(checkpoint).position

    def page(self, workspace: str, limit: int, cursor: str | None, criteria: Criteria) -> Page:
        """Some of a workspace's keys, those behind where a page before ended.

        It looks at so many keys and no more, so where few match, the page may be short and not the last.
        """
        now = now_ms()
        listing = Listing(self.store, partial(self._index, workspace), self.rows, workspace, now)
        return listing.page(limit, cursor, criteria)

    def entries(self) -> Iterator[Entry]:
        """All that it holds: rows, the index, parked keys."""
        own, row, index = (self._key(kind).encode() for kind in ("", "key:", "index:"))
        seen = set[bytes]()
        for names in self._scan():
            # A scan gives a name twice where the store's table grows meanwhile.
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
        """Keeps every projector from changing it, for so long or until it is released."""
        self.store.set(self._key("hold"), "1", ex=seconds)

    def extend_hold(self, seconds: int) -> bool:
        """Keeps a hold for longer; False if it ran out, and so somebody may have written."""
        return bool(self.store.expire(self._key("hold"), seconds))

    def release(self) -> None:
        """Ends a hold."""
        self.store.delete(self._key("hold"))

    def delete(self) -> None:
        """Removes it, a page at a time, so that the store is never held up.

        The checkpoint goes last, for by it others find what is left.
        """
        for names in self._scan():
            others = [name for name in names if name != self.checkpoint_key.encode()]
            if others:
                self.store.unlink(*others)
        self.store.unlink(self.checkpoint_key)

    def _members(self, name: bytes) -> Iterator[tuple[bytes, float]]:
        """Those of a sorted set, each once, as long as it is left alone."""
        first = 0
        while found := self.store.zrange(name, first, first + _SCAN_PAGE - 1, withscores=True):
            yield from cast("list[tuple[bytes, float]]", found)
            first += _SCAN_PAGE

    def _scan(self) -> Iterator[list[bytes]]:
        cursor = 0
        while True:
            # The namespace has no character that a pattern would take for its own.
            reply = self.store.scan(cursor, match=self._key("*"), count=_SCAN_PAGE)
            cursor, names = cast("tuple[int, list[bytes]]", reply)
            if names:
                yield names
            if cursor == 0:
                return

    def _key(self, name: str) -> str:
        return f"{_ROOT}{self.name}:{name}"

    def _row(self, key_id: str) -> str:
        return self._key(f"key:{key_id}")

    def _index(self, workspace: str, kind: str) -> str:
        return self._key(f"index:{kind}:{workspace}")


class LeaseTakenError(UserFacingError):
    """Another process is rebuilding the views."""

    def __init__(self) -> None:
        super().__init__("Another replay is running, or was killed a moment ago: try again in 15 seconds.")


@dataclass(frozen=True)
class Lease:
    """The right to rebuild; it ends by itself some seconds after its holder died."""

    store: Redis
    token: str

    def extend(self) -> None:
        """Keeps it. Raises LeaseTakenError, if it was lost."""
        self._while_held(lambda pipe: pipe.expire(_LEASE, _LEASE_S))

    def release(self) -> None:
        """Gives it back, if it was not lost."""
        with suppress(LeaseTakenError):
            self._while_held(lambda pipe: pipe.delete(_LEASE))

    def is_held(self, value: bytes | None) -> bool:
        """Whether the lease's value in the store is this one's."""
        return value == self.token.encode()

    def _while_held(self, act: Callable[[Any], object]) -> None:
        with cast("Any", self.store.pipeline()) as pipe:
            pipe.watch(_LEASE)
            if not self.is_held(pipe.get(_LEASE)):
                raise LeaseTakenError
            pipe.multi()
            act(pipe)
            try:
                pipe.execute()
            except WatchError as error:
                raise LeaseTakenError from error


@dataclass(frozen=True)
class Views:
    """What readers see: the live generation."""

    store: Redis

    def live(self) -> Generation:
        """The generation that the pointer names; the first one, before there is a pointer."""
        name = cast("bytes | None", self.store.get(_POINTER))
        return self.generation(name.decode() if name else "first")

    def generation(self, name: str) -> Generation:
        """A generation by its name, whether it is there or not."""
        return Generation(self.store, name)

    def find(self, key_id: str) -> tuple[Key | None, int]:
        """One key, and the position of the ledger at which it is so."""
        live = self.live()
        while (found := live.find(key_id))[0] is None and (now_live := self.live()) != live:
            live = now_live
        return found

    def page(self, workspace: str, limit: int, cursor: str | None = None, criteria: Criteria = ALL) -> Page:
        """Some of a workspace's keys."""
        empty = Page([], None)
        page = self._read(
            lambda live: None if (found := live.page(workspace, limit, cursor, criteria)) == empty else found
        )
        return page or empty

    def wait_for(self, position: int) -> bool:
        """Waits until the views have a position, 2 s at most; whether they have."""
        deadline = time.monotonic() + _WAIT_S
        while self.live().checkpoint().position < position:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def flip(self, lease: "Lease", old: Generation, new: Generation, *, even_if_behind: bool) -> bool:
        """Makes `new` the live one, unless it is behind the old one or another took that one's place.

        Raises LeaseTakenError: then somebody else may be removing what is not live.
        """
        with cast("Any", self.store.pipeline()) as pipe:
            pipe.watch(_POINTER, _LEASE, old.checkpoint_key, new.checkpoint_key)
            if not lease.is_held(pipe.get(_LEASE)):
                raise LeaseTakenError
            behind = new.checkpoint().position < old.checkpoint().position
            if self.live() != old or (behind and not even_if_behind):
                return False
            pipe.multi()
            pipe.set(_POINTER, new.name)
            try:
                pipe.execute()
            except WatchError:
                return False
            return True

    def delete_all_but(self, kept: Generation) -> None:
        """Removes what interrupted or finished rebuilds left. Only the holder of the lease may."""
        names = {name.decode().removeprefix(_ROOT).split(":")[0] for name in self._checkpoints()}
        for name in names - {kept.name}:
            self.generation(name).delete()

    @contextmanager
    def lease(self) -> Iterator["Lease"]:
        """The right to rebuild, which one process has at a time. Raises LeaseTakenError."""
        lease = Lease(self.store, uuid.uuid4().hex)
        if not self.store.set(_LEASE, lease.token, nx=True, ex=_LEASE_S):
            raise LeaseTakenError
        try:
            yield lease
        finally:
            lease.release()

    def _checkpoints(self) -> Iterator[bytes]:
        return self.store.scan_iter(f"{_ROOT}*:checkpoint", count=_SCAN_PAGE)

    def _read(self, read: Callable[[Generation], _T | None]) -> _T | None:
        """Reads again where nothing was found because the generation went away meanwhile."""
        live = self.live()
        while (found := read(live)) is None and (now_live := self.live()) != live:
            live = now_live
        return found


def _parted(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
