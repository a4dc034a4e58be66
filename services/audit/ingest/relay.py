"""The process that tells the audit worker of new events: ledger -> RQ job."""

import time
from collections.abc import Callable
from threading import Event as Stop

import structlog
from redis import RedisError

from services.audit.ingest.job import LedgerWentBackwardsError, Requests
from services.audit.integrity.notary import is_due
from services.audit.log.database import AuditDatabaseError
from services.audit.log.store import AuditLog
from shared.eventstore.ledger import Checkpoint, Ledger

_WAIT_MS = 1000
_LOOK_S = 1.0  # how often the audit log's end is compared with the ledger
_LAG_S = 2.0  # how long an event may wait for its entry until a job is taken for lost
_BREATH_S = 0.05  # events that come within it are one job's work
_CHECKPOINT_S = 60.0  # how long a checkpoint that is due may take until it is asked for again
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 1.0  # so that an old copy of the store, come back, is told of within 2 s

_log = structlog.get_logger(__name__)


class Relay:
    """Asks for a job when there are new events, when a checkpoint is due, and again when one is lost.

    It has no checkpoint but the audit log's own last position. `ledger` is on a connection that waits
    for answers longer than a blocking read takes.
    """

    def __init__(self, ledger: Ledger, log: AuditLog, requests: Requests, now_ms: Callable[[], int]) -> None:
        self._ledger = ledger
        self._log = log
        self._requests = requests
        self._now_ms = now_ms
        self._seen: int | None = None  # of events up to this position a job was told
        self._awaited = 0  # the audit log should soon have reached this position
        self._awaited_since = 0.0
        self._next_look = 0.0
        self._next_checkpoint = 0.0
        self._backwards = False

    def run(self, stop: Stop) -> None:
        """Works until told to stop; waits for a store or a database that is away."""
        retry = _FIRST_RETRY_S
        while not stop.is_set():
            try:
                asked = self.step(_WAIT_MS)
            except (RedisError, AuditDatabaseError) as error:
                if retry == _FIRST_RETRY_S:
                    _log.warning("the audit relay waits for what is away", reason=str(error))
                self._next_look = 0.0  # what comes back may be an old copy
                stop.wait(retry)
                retry = min(2 * retry, _LONGEST_RETRY_S)
                continue
            if retry != _FIRST_RETRY_S:
                _log.info("the audit relay goes on")
                retry = _FIRST_RETRY_S
            stop.wait(_LOOK_S if self._backwards else _BREATH_S if asked else 0)

    def step(self, wait_ms: int) -> bool:
        """Waits for news, and asks for a job if there is need; gives whether there was."""
        asked = False
        if self._seen is None or time.monotonic() >= self._next_look:
            asked = self._look()
        if self._backwards or not self._ledger.tail(self._seen or 0, 1, wait_ms):
            return asked
        # The end is read before a job is asked for, so the job reads at least as far.
        self._seen = self._ledger.head().position
        return self._requests.ask() or asked

    def _look(self) -> bool:
        """Compares where the audit log ends with the ledger; asks for a job if one came to nothing.

        A checkpoint that is due by time alone, or an index that lacks entries, has no news that would bring
        a job.
        """
        last, head = self._log.last(), self._ledger.head()
        self._alarm(last)
        # A reader that is ahead of the ledger would wait for ever.
        self._seen = min(last.position if self._seen is None else self._seen, head.position)
        now = time.monotonic()
        self._next_look = now + _LOOK_S
        if last.position >= self._awaited:
            self._awaited, self._awaited_since = head.position, now
            return self._ask_for_checkpoint(last.position)
        if self._backwards or now - self._awaited_since < _LAG_S:
            return False
        self._awaited_since = now
        return self._requests.ask()

    def _ask_for_checkpoint(self, position: int) -> bool:
        now = time.monotonic()
        if self._backwards or now < self._next_checkpoint:
            return False
        is_indexed = self._log.search.indexed() >= position
        if is_indexed and not is_due(self._log, position, self._now_ms()):
            return False
        self._next_checkpoint = now + _CHECKPOINT_S
        return self._requests.ask()

    def _alarm(self, last: Checkpoint) -> None:
        backwards = not self._ledger.holds(last)
        if backwards and not self._backwards:
            _log.error("the ledger went backwards", reason=str(LedgerWentBackwardsError(last)))
        if self._backwards and not backwards:
            _log.info("the ledger holds the audit log's last event again")
        self._backwards = backwards
