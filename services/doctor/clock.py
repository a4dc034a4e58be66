"""The clocks: this machine's against those of the store and the database, and against the ledger's times."""

import time
from collections.abc import Callable, Iterator

from sqlalchemy import func, select

from services.doctor.findings import Finding, ok, problem, warning
from services.doctor.installation import Installation
from shared.components import now_ms

_SKEWED_MS = 1_000
_WRONG_MS = 5_000


def check_clock(installation: Installation) -> Iterator[Finding]:
    """The store stamps the events, and this machine decides what has expired."""
    store = installation.store

    def ask() -> float:
        seconds, microseconds = store.time()
        return seconds * 1000 + microseconds / 1000

    yield skewed(_skew(ask), "the store's")
    last = installation.ledger.newest()
    ahead = last.at - now_ms() if last else 0
    if ahead > _WRONG_MS:
        yield problem(
            f"the ledger's last event is {ahead / 1000:,.0f} s ahead of this clock: a clock was set back",
            "Set the clocks right by NTP. Until then all new events bear the time of that one.",
        )


def check_database_clock(installation: Installation) -> Iterator[Finding]:
    """That of a database which is a program of its own."""
    if installation.database_file:
        return
    now = select(func.extract("epoch", func.clock_timestamp()))
    skew = installation.database.read(
        lambda connection: _skew(lambda: 1000 * float(connection.execute(now).scalar_one()))
    )
    yield skewed(skew, "the database's")


def skewed(ms: float, whose: str) -> Finding:
    """What is to be said of a clock that is so far ahead of this machine's."""
    if abs(ms) <= _SKEWED_MS:
        return ok(f"{whose} and this machine's are within {max(abs(ms), 1):.0f} ms")
    say = problem if abs(ms) > _WRONG_MS else warning
    found = f"{whose} is {abs(ms) / 1000:,.1f} s {'ahead of' if ms > 0 else 'behind'} this machine's"
    return say(found, "Set both by NTP; `timedatectl` says whether this one is.")


def _skew(ask: Callable[[], float]) -> float:
    """How far another clock is ahead of this one, in ms, taken in the middle of asking."""
    before, theirs, after = time.time(), ask(), time.time()
    return theirs - (before + after) * 500
