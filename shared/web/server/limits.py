"""Rate limits for callers. Each web process counts on its own, so no request asks the store.

With the two workers of `keyledger web`, a caller gets up to twice the rate, depending on its connections.
"""

import math
import time

from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from shared.identity import Principal


class TooManyRequestsError(Exception):
    """The caller sent too many requests. `retry_after` is in seconds, 1 or more."""

    def __init__(self, retry_after: int, whose: str = "") -> None:
        super().__init__(f"Too many requests{whose}. Wait {retry_after} s, then send requests more slowly.")
        self.retry_after = retry_after


class Limits:
    """Counts the requests of each key, and of each account in all its sessions.

    The window slides, so that no caller gets twice the rate around its end. It takes two counters per caller.
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
