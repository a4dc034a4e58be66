"""Memory of the store that is reserved for commands that remove access, and for signing in to run them."""

import time
from collections.abc import Callable, Iterable

from redis import Redis
from redis.exceptions import OutOfMemoryError

from shared.eventstore.envelope import NewEvent
from shared.eventstore.events import (
    AccountDisabled,
    AccountRoleChanged,
    KeyRevoked,
    KeyToggled,
    SignedIn,
    SignedOutEverywhere,
)
from shared.eventstore.payload import Payload
from shared.identity import ADMIN, ROLES

_SHARE = 16  # of the store's limit, within these bounds
_MIN_BYTES = 256 * 1024  # with less, a server refuses some commands and accepts others
_MAX_BYTES = 8 * 1024 * 1024
_LOOK_EVERY_S = 0.25


def reserve(maxmemory: int) -> int:
    """The reserve of a store with a memory limit, in bytes."""
    return max(_MIN_BYTES, min(_MAX_BYTES, maxmemory // _SHARE))


def may_use_reserve(events: Iterable[NewEvent]) -> bool:
    """Whether the events remove access, or sign in someone who can.

    They can't use it up: enabling a key and promoting an account are ordinary commands, and sign-ins are
    limited.
    """
    return all(_takes_access_away(event.data) or isinstance(event.data, SignedIn) for event in events)


def _takes_access_away(payload: Payload) -> bool:
    match payload:
        case KeyRevoked() | AccountDisabled() | SignedOutEverywhere():
            return True
        case KeyToggled():
            return not payload.enabled
        case AccountRoleChanged():
            before, after = (ROLES.get(role, frozenset()) for role in (payload.before, payload.after))
            return ADMIN in before or after <= before
    return False


class Reserve:
    """Refuses ordinary writes once the store has no more than its reserve left."""

    def __init__(self, store: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._looks_again = float("-inf")
        self._reached = False

    def spare(self) -> None:
        """Raises OutOfMemoryError if only the reserve is left. Reads the usage up to four times a second."""
        now = self._clock()
        if now >= self._looks_again:
            self._looks_again = now + _LOOK_EVERY_S
            memory = self._store.info("memory")
            used = memory["used_memory"] - memory.get("mem_not_counted_for_evict", 0)
            self._reached = 0 < memory["maxmemory"] < used + reserve(memory["maxmemory"])
        if self._reached:
            raise OutOfMemoryError("only the reserve is left")
