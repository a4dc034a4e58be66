"""Bounded LRU cache of keys, with as much of each as a verdict needs."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import msgspec

from services.keys.commands import fold
from services.keys.model.key import Key
from shared.eventstore.envelope import Event, UnreadableEventError

_UNKNOWN_SHARE = 10  # there is a tenth as much room for ids that no key has as for keys


class CachedKey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a verdict needs of a key. Times are in ms; `position` is that of the key's last event."""

    id: str
    digest: bytes
    previous_digest: bytes | None
    previous_expires_at: int
    workspace: str
    name: str
    scopes: tuple[str, ...]
    expires_at: int | None
    enabled: bool
    revoked: bool
    position: int


# Stands for a key that doesn't exist. No token has this digest, so it needs no special case.
UNKNOWN = CachedKey(
    id="",
    digest=bytes(32),
    previous_digest=None,
    previous_expires_at=0,
    workspace="",
    name="",
    scopes=(),
    expires_at=None,
    enabled=False,
    revoked=False,
    position=0,
)


def cached_key(history: Sequence[Event]) -> CachedKey:
    """Builds a cached key from its events, oldest first. Raises UnreadableEventError."""
    return cached_key_after(fold(history), history[-1]) if history else UNKNOWN


def cached_key_after(key: Key, last: Event) -> CachedKey:
    """Builds a cached key whose last event this was. Raises UnreadableEventError."""
    try:
        digest = bytes.fromhex(key.digest)
        previous = None if key.previous_digest is None else bytes.fromhex(key.previous_digest)
    except ValueError as error:
        raise UnreadableEventError(
            last.position, last.subject, "a digest is no hexadecimal number"
        ) from error
    return CachedKey(
        id=key.id,
        digest=digest,
        previous_digest=previous,
        previous_expires_at=key.previous_expires_at or 0,
        workspace=sys.intern(key.workspace),
        name=key.name,
        scopes=_shared(key.scopes),
        expires_at=key.expires_at,
        enabled=key.enabled,
        revoked=key.revoked,
        position=last.position,
    )


@lru_cache(4096)
def _shared(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """One tuple for all keys with the same scopes, for there are few of those among many keys."""
    return scopes


@dataclass(eq=False)
class _Load:
    """A read of the ledger in progress, which an event of the key may overtake."""

    key_id: str
    overtaken: bool = False


class KeyCache:
    """LRU cache of keys by ID.

    Unknown IDs have a limit of their own, so that guessing IDs evicts no keys. `find` takes no lock: each of
    its steps is atomic under the GIL.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: OrderedDict[str, CachedKey] = OrderedDict()
        self._unknown: OrderedDict[str, CachedKey] = OrderedDict()
        self._loads: set[_Load] = set()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key_id: str) -> CachedKey | None:
        """The cached key, UNKNOWN if there is no such key, or None if it isn't cached."""
        key = self._known.get(key_id)
        if key is None:
            return self._unknown.get(key_id)
        try:
            self._known.move_to_end(key_id)
        except KeyError:  # forgotten in between
            return None
        return key

    def load(self, key_id: str, read: Callable[[str], CachedKey]) -> CachedKey:
        """Reads a key and caches it, unless an event of the key arrived meanwhile.

        What was read may lack that event, and nothing would evict it later. It is still current enough for
        this caller, since the read began after the call.
        """
        with self._under_way(key_id) as load:
            key = read(key_id)
            with self._lock:
                if not load.overtaken:
                    self._remember(key_id, key)
        return key

    def forget(self, key_id: str) -> None:
        """Evicts a key. Call this for each event of the key."""
        with self._lock:
            self._known.pop(key_id, None)
            self._unknown.pop(key_id, None)
            for load in self._loads:
                load.overtaken |= load.key_id == key_id

    def clear(self) -> None:
        """Evicts everything."""
        with self._lock:
            self._known.clear()
            self._unknown.clear()
            for load in self._loads:
                load.overtaken = True

    @contextmanager
    def _under_way(self, key_id: str) -> Iterator[_Load]:
        load = _Load(key_id)
        with self._lock:
            self._loads.add(load)
        try:
            yield load
        finally:
            with self._lock:
                self._loads.discard(load)

    def _remember(self, key_id: str, key: CachedKey) -> None:
        if key is UNKNOWN:
            rows, limit = self._unknown, max(self._limit // _UNKNOWN_SHARE, 1)
        else:
            rows, limit = self._known, self._limit
        rows[key_id] = key
        if len(rows) > limit:
            rows.popitem(last=False)
