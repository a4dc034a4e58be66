"""How often a caller may call. Each web process counts for itself, so that no call asks the store.

With the two workers of `keyledger web` a caller gets up to twice the rate, as the connections fall.
"""

import math
import time

from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from shared.identity import Principal


class TooManyRequestsError(Exception):
    """The caller asked too often; it may again in so many seconds, at least 1."""

    def __init__(self, retry_after: int, whose: str = "") -> None:
        super().__init__(f"Too many requests{whose}. Wait {retry_after} s, then send requests more slowly.")
        self.retry_after = retry_after


class Limits:
    """The count of each caller's requests: of each key, and of each account in all its sessions.

    The window slides, so that no caller gets twice the rate around its end. It takes two counters a caller.
    """

    def __init__(self, rate: RateLimitItem | None) -> None:
        self._rate = rate
        self._counts = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, principal: Principal) -> None:
        """Counts one request. Raises TooManyRequestsError."""
        rate = self._rate
        if rate is None or self._counts.hit(rate, principal.kind, principal.id):
            return
        reset_at = self._counts.get_window_stats(rate, principal.kind, principal.id).reset_time
        whose = " with this key" if principal.kind == "key" else ""
        raise TooManyRequestsError(max(1, math.ceil(reset_at - time.time())), whose)
