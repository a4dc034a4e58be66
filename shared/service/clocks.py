"""How far the clock of another machine is ahead of this one's."""

import time
from collections.abc import Callable

from shared.service.checks import Finding, ok, problem, warning

_SKEWED_MS = 1_000
WRONG_MS = 5_000


def skewed(ms: float, whose: str) -> Finding:
    """Describes a clock that is `ms` ahead of this machine's."""
    if abs(ms) <= _SKEWED_MS:
        return ok(f"{whose} and this machine's are within {max(abs(ms), 1):.0f} ms")
    say = problem if abs(ms) > WRONG_MS else warning
    found = f"{whose} is {abs(ms) / 1000:,.1f} s {'ahead of' if ms > 0 else 'behind'} this machine's"
    return say(found, "Synchronize both by NTP; `timedatectl` shows whether this one is.")


def skew_of(ask: Callable[[], float]) -> float:
    """Returns how far another clock is ahead of this one, in ms, measured halfway through the request."""
    before, theirs, after = time.time(), ask(), time.time()
    return theirs - (before + after) * 500
