"""Follows the ledger for one consumer: from its checkpoint, through outages and after a reset."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event as Stop
from typing import Any, NamedTuple, Protocol, cast

import structlog
from redis import Redis, RedisError, WatchError

from shared.eventstore.envelope import Record
from shared.eventstore.ledger import BEGINNING, Checkpoint, Ledger, checkpoint_at
from shared.store.connections import StoreError

UNAVAILABLE: tuple[type[Exception], ...] = (RedisError, StoreError)
_LONG_LAG_EVENTS = 1_000
_LONG_LAG_MS = 30_000
_log = structlog.get_logger(__name__)


class Lag(NamedTuple):
    """How far a reader is behind the ledger's end. `events` is negative if the ledger went backwards."""

    head: int
    events: int
    ms: int  # since the oldest event that the reader doesn't have

    @property
    def is_long(self) -> bool:
        """Whether the reader needs attention."""
        return self.events > _LONG_LAG_EVENTS or self.ms > _LONG_LAG_MS


def lag_of(position: int, ledger: Ledger, now: int) -> Lag:
    """The lag of a reader that got to a position. `now` is in ms since 1970. Raises redis.RedisError."""
    head = ledger.head().position
    waiting = ledger.read(position, 1)
    return Lag(head, head - position, max(now - waiting[0].at, 0) if waiting else 0)


class Batch(NamedTuple):
    """The events that follow a checkpoint, oldest first, and the checkpoint after them."""

    after: Checkpoint
    records: Sequence[Record]
    reached: Checkpoint


class Checkpoints(Protocol):
    """Where a consumer keeps how far it got."""

    def load(self) -> Checkpoint:
        """Returns the checkpoint to read on from."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in Redis, saved in one atomic step with what its consumer writes."""

    store: Redis
    key: str

    def load(self) -> Checkpoint:
        """Returns the stored checkpoint, or the beginning if there is none."""
        return Checkpoint.parse(cast("bytes | None", self.store.get(self.key)))

    def save(self, expected: Checkpoint, reached: Checkpoint, write: Callable[[Any], object]) -> bool:
        """Queues commands by `write`, and executes them with the new checkpoint.

        Returns False, and writes nothing, if the stored checkpoint isn't the expected one.
        """
        with cast("Any", self.store.pipeline()) as pipe:
            pipe.watch(self.key)
            if Checkpoint.parse(pipe.get(self.key)) != expected:
                return False
            pipe.multi()
            write(pipe)
            pipe.set(self.key, reached.stored)
            try:
                pipe.execute()
            except WatchError:
                return False
            return True


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a subscription reads. Its connection must wait for answers longer than `wait_ms`."""

    page: int = 500  # events in one read
    wait_ms: int = 500  # for the first new event
    gather_s: float = 0.0  # pause after a short page, so that events close together are read together
    retry_s: Sequence[float] = (0.2,)  # pauses between attempts in an outage; the last one repeats


class Subscription:
    """Passes all events to a consumer, each page once it is known to follow the consumer's checkpoint.

    `handle` returns whether the consumer has the batch now; False if another process was faster. `on_reset`
    is called if the ledger no longer holds an event that the consumer has: the ledger went backwards.

    `position` is that of the last checkpoint. `caught_up_at` is when the last read that reached the ledger's
    end was sent, by `time.monotonic`; -inf during an outage and after a reset. `last_error` names the error
    of an outage that goes on.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        checkpoints: Checkpoints,
        handle: Callable[[Batch], bool],
        on_reset: Callable[[], object],
        *,
        pace: Pace,
        retry_on: tuple[type[Exception], ...] = UNAVAILABLE,
    ) -> None:
        self.name = name
        self.position = 0
        self.caught_up_at = float("-inf")
        self.last_error: str | None = None
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._handle = handle
        self._on_reset = on_reset
        self._pace = pace
        self._retry_on = retry_on
        self._failures = 0
        self._went_backwards = False
        # An older copy of the store brings an older checkpoint with it, so this process keeps its own.
        self._seen = BEGINNING

    def run(self, stop: Stop) -> None:
        """Follows the ledger until `stop` is set. Logs the beginning and the end of each outage."""
        while not stop.is_set():
            try:
                count = self.step(self._pace.wait_ms)
            except self._retry_on as error:
                stop.wait(self._failed(error))
                continue
            if self._failures:
                _log.info("subscription resumed", subscription=self.name)
                self._failures, self.last_error = 0, None
            if 0 < count < self._pace.page:
                stop.wait(self._pace.gather_s)

    def catch_up(self) -> None:
        """Handles all events up to the ledger's end, also after a reset."""
        started = time.monotonic()
        while self.caught_up_at < started:
            self.step(wait_ms=1)

    def step(self, wait_ms: int) -> int:
        """Waits for the next page, and handles it. Returns how many events were handled."""
        before = self._checkpoints.load()
        sent = time.monotonic()
        records = self._ledger.tail(before.position, self._pace.page, wait_ms)
        # Checked after every read: a ledger that lost its end may have grown past it since.
        if not all(map(self._ledger.holds, {before, self._seen})):
            lost, self._seen = max(before, self._seen), BEGINNING
            self.caught_up_at = float("-inf")
            if not self._went_backwards:  # once, however often the consumer can't be reset yet
                _log.error("the ledger went backwards", subscription=self.name, position=lost.position)
            self._went_backwards = True
            self._on_reset()
            return 0
        self._went_backwards = False
        reached = checkpoint_at(records) if records else before
        if records and not self._handle(Batch(before, records, reached)):
            reached, records = before, []
        elif len(records) < self._pace.page:
            self.caught_up_at = sent
        self._seen, self.position = reached, reached.position
        return len(records)

    def lag(self, now: int) -> Lag:
        """Returns how far the consumer is behind. `now` is in ms since 1970. Raises redis.RedisError."""
        return lag_of(self.position, self._ledger, now)

    def _failed(self, error: Exception) -> float:
        """Notes a failed attempt, and returns the pause until the next one in seconds."""
        self.caught_up_at = float("-inf")
        kind = type(error).__name__
        if kind != self.last_error:
            _log.warning("subscription interrupted", subscription=self.name, reason=str(error))
        self.last_error = kind
        pause = self._pace.retry_s[min(self._failures, len(self._pace.retry_s) - 1)]
        self._failures += 1
        return pause
