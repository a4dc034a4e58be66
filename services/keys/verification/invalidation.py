"""Keeps what a process remembers of keys current, by following the ledger's tail."""

import time
from threading import Event as Stop

import structlog
from redis import RedisError

from services.keys.model.key import key_id
from services.keys.verification.cache import KeyCache
from shared.eventstore.codec import name_of
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import BEGINNING, Checkpoint, Ledger, checkpoint_at
from shared.eventstore.payload import KEY_SUBJECT
from shared.store.connections import StoreError

FRESH_S = 0.5  # for how long a reading of the ledger is taken for its present state, from its sending on
_WAIT_MS = 200
_LIMIT = 1_000  # events; a reading with as many may have left some behind
_GATHER_S = 0.005  # between readings, so that events which come close together are read together
_PAUSE_S = 0.05
_log = structlog.get_logger(__name__)


class CacheInvalidator:
    """Forgets each key that the ledger has news of.

    `position`: the memory holds nothing older. `fresh_until`: by the clock of `time.monotonic`, the moment
    from which on a verdict must not come from memory. It has to be read before the memory is, for what was
    found may be outdated at once, and compared after the verdict is made: the process may have been stopped
    in between. `at`: when the newest event of it happened, in ms.
    """

    def __init__(self, ledger: Ledger, memory: KeyCache) -> None:
        self.position = 0
        self.at = 0
        self.fresh_until = 0.0
        self._ledger = ledger
        self._memory = memory
        self._reached: Checkpoint | None = None

    def run(self, stop: Stop) -> None:
        """Follows until told to stop. While the store is away nothing is current, and it tries again."""
        away = False
        while not stop.is_set():
            try:
                self.step()
                away = False
                stop.wait(_GATHER_S)
            except (RedisError, StoreError) as error:
                self.fresh_until = 0.0
                if away:
                    stop.wait(_PAUSE_S)
                else:  # a connection that was cut is replaced at once
                    _log.warning("the verifier cannot follow the ledger", error=str(error))
                away = True

    def step(self, wait_ms: int = _WAIT_MS) -> None:
        """Waits for news once. Raises redis.RedisError."""
        before = self._reached or self._begin()
        sent = time.monotonic()
        records = self._ledger.tail(before.position, _LIMIT, wait_ms)
        for record in records:
            self._forget(record)
        # Asked after the reading, so that what was read follows what was there before.
        if not self._ledger.holds(before):
            _log.error("the ledger went backwards; all verdicts begin anew", position=before.position)
            self._begin()
            return
        if records:
            self._reached = checkpoint_at(records)
            self.position = self._reached.position
            self.at = records[-1].at
        if len(records) < _LIMIT:
            self.fresh_until = sent + FRESH_S

    def _begin(self) -> Checkpoint:
        """Forgets everything only once it has the head: what is read from then on is at least as new."""
        self.fresh_until = 0.0
        self._reached = None
        newest = self._ledger.newest()
        self._memory.clear()
        self._reached = checkpoint_at([newest]) if newest else BEGINNING
        self.position, self.at = self._reached.position, newest.at if newest else 0
        return self._reached

    def _forget(self, record: Record) -> None:
        subject = name_of(record).subject
        if subject is None:  # it could be about any key
            self._memory.clear()
        elif subject.startswith(KEY_SUBJECT):
            self._memory.forget(key_id(subject))
