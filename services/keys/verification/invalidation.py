"""Keeps the key cache of a process current by following the ledger."""

from services.keys.model.key import key_id
from services.keys.verification.cache import KeyCache
from shared.eventstore.codec import name_of
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import BEGINNING, Checkpoint, Ledger, checkpoint_at
from shared.eventstore.payload import KEY_SUBJECT
from shared.eventstore.subscription import Batch, Pace, Subscription

FRESH_S = 0.5  # how long a read of the ledger counts as its current state, from when it was sent
# A connection that was cut is replaced at once.
_PACE = Pace(page=1_000, wait_ms=200, gather_s=0.005, retry_s=(0.0, 0.05))


class CacheInvalidator:
    """Removes each key from the cache that the ledger has an event of.

    `position`: the cache holds nothing older. `at`: when the newest event happened, in ms.
    """

    def __init__(self, ledger: Ledger, cache: KeyCache) -> None:
        self.position = 0
        self.at = 0
        self.subscription = Subscription(
            ledger, "verifier", self, self._invalidate, self._start_over, pace=_PACE
        )
        self.run = self.subscription.run
        self.step = self.subscription.step
        self._ledger = ledger
        self._cache = cache
        self._reached: Checkpoint | None = None

    @property
    def fresh_until(self) -> float:
        """Until when a verdict may come from the cache, by `time.monotonic`.

        Read it before the cache, for what was found may be outdated at once, and compare it after the verdict
        is made: the process may have been stopped in between.
        """
        return self.subscription.caught_up_at + FRESH_S

    def load(self) -> Checkpoint:
        """Returns how far the cache is current."""
        return self._reached or self._start_over()

    def _start_over(self) -> Checkpoint:
        """Clears the cache once it has the end of the ledger: what is read after that is at least as new."""
        self._reached = None
        newest = self._ledger.newest()
        self._cache.clear()
        self._reached = checkpoint_at([newest]) if newest else BEGINNING
        self.position, self.at = self._reached.position, newest.at if newest else 0
        return self._reached

    def _invalidate(self, batch: Batch) -> bool:
        for record in batch.records:
            self._forget(record)
        self._reached = batch.reached
        self.position, self.at = batch.reached.position, batch.records[-1].at
        return True

    def _forget(self, record: Record) -> None:
        subject = name_of(record).subject
        if subject is None:  # it could be about any key
            self._cache.clear()
        elif subject.startswith(KEY_SUBJECT):
            self._cache.forget(key_id(subject))
