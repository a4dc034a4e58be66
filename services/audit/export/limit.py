"""Limits exports per caller, because each appends an event and the ledger is never trimmed."""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis import Redis

from shared.eventstore.ledger import NAMESPACE
from shared.identity import Principal

EXPORTS_A_MINUTE = 10
_RATE = RateLimitItemPerMinute(EXPORTS_A_MINUTE)


class TooManyExportsError(Exception):
    """The caller exported too often. `retry_after` is in seconds, at least 1."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"You can start {EXPORTS_A_MINUTE} exports a minute. Wait {retry_after} s, then try again."
        )
        self.retry_after = retry_after


class ExportLimit:
    """Counts each caller's exports in the store, across all processes."""

    def __init__(self, store: Redis) -> None:
        # The URL isn't used: the connections are those of the client that was passed in.
        storage = RedisStorage(
            "redis://", connection_pool=store.connection_pool, key_prefix=f"{NAMESPACE}:exports"
        )
        self._counts = MovingWindowRateLimiter(storage)

    def count(self, principal: Principal) -> None:
        """Counts one export. Raises TooManyExportsError, redis.RedisError."""
        if self._counts.hit(_RATE, principal.kind, principal.id):
            return
        reset_at = self._counts.get_window_stats(_RATE, principal.kind, principal.id).reset_time
        raise TooManyExportsError(max(1, math.ceil(reset_at - time.time())))
