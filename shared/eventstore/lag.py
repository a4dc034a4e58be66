"""How far a reader of the ledger is behind its end."""

from typing import NamedTuple

from shared.eventstore.ledger import Ledger

# What a reader may be behind and still be called well.
_EVENTS = 1_000
_MS = 30_000


class Lag(NamedTuple):
    """Measured against the ledger's own end. `events` is negative, if the ledger went backwards."""

    head: int
    events: int
    ms: int  # how long the oldest event waits that the reader has not

    @property
    def is_long(self) -> bool:
        """Whether somebody should look why."""
        return self.events > _EVENTS or self.ms > _MS


def lag_of(position: int, ledger: Ledger, now: int) -> Lag:
    """Of a reader that got so far. `now` is in ms since 1970. Raises redis.RedisError."""
    head = ledger.head().position
    waiting = ledger.read(position, 1)
    return Lag(head, head - position, max(now - waiting[0].at, 0) if waiting else 0)
