"""How far a reader of the ledger is behind its end."""

from typing import NamedTuple

from shared.ledger import Ledger

# What a reader may be behind and still be called well.
EVENTS_MOST = 1_000
MS_MOST = 30_000


class Lag(NamedTuple):
    """Measured against the ledger's own end. `events` is negative, if the ledger went backwards."""

    head: int
    events: int
    ms: int  # how long the oldest event waits that the reader has not


def lag_of(position: int, ledger: Ledger, now: int) -> Lag:
    """Of a reader that got so far. `now` is in ms since 1970. Raises redis.RedisError."""
    head = ledger.head().position
    waiting = ledger.read(position, 1)
    return Lag(head, head - position, max(now - waiting[0].at, 0) if waiting else 0)
