"""The process that notifies the audit worker of new events: ledger -> RQ job."""

import time
from collections.abc import Callable
from threading import Event as Stop

import structlog

from services.audit.ingest.job import Requests
from services.audit.integrity.notary import is_due
from services.audit.log.database import AuditDatabaseError
from services.audit.log.store import AuditLog
from shared.eventstore.ledger import Checkpoint, Ledger
from shared.eventstore.subscription import UNAVAILABLE, Batch, Pace, Subscription

_LOOK_S = 1.0  # how often the audit log's end is compared with the ledger
_LAG_S = 2.0  # how long an event may wait for its entry before its job counts as lost
_PAUSE_S = 0.5  # while the ledger lacks the audit log's last event
_CHECKPOINT_S = 60.0  # how long a checkpoint that is due may take until it is requested again
# An older copy of the store is reported within 2 s of its return.
_PACE = Pace(page=100, gather_s=0.05, retry_s=(0.1, 0.2, 0.4, 0.8, 1.0))

_log = structlog.get_logger(__name__)


class Relay:
    """Requests a job when there are new events, when a checkpoint is due, and again when a job was lost.

    It stores no checkpoint: it starts at the audit log's last event. The connection of `ledger` must wait for
    answers longer than `_PACE.wait_ms`.
    """

    def __init__(self, ledger: Ledger, log: AuditLog, requests: Requests, now_ms: Callable[[], int]) -> None:
        self.subscription = Subscription(
            ledger,
            "audit relay",
            self,
            self._request,
            self._start_over,
            pace=_PACE,
            retry_on=(*UNAVAILABLE, AuditDatabaseError),
        )
        self.step = self.subscription.step
        self._ledger = ledger
        self._log = log
        self._requests = requests
        self._now_ms = now_ms
        self._stop = Stop()
        self._stop.set()  # outside of `run`, nothing waits
        self._requested: Checkpoint | None = None  # a job was requested for the events up to here
        self._awaited = 0  # the audit log should soon have reached this position
        self._awaited_since = 0.0
        self._next_look = 0.0
        self._next_checkpoint = 0.0
        self._went_backwards = False

    def run(self, stop: Stop) -> None:
        """Works until `stop` is set."""
        self._stop = stop
        self.subscription.run(stop)

    def load(self) -> Checkpoint:
        """Returns where to read on, and looks at the audit log's end once a second."""
        if self._requested is None or time.monotonic() >= self._next_look:
            self._requested = self._look()
        return self._requested

    def _request(self, _: Batch) -> bool:
        # The end is read before a job is requested, so the job reads at least as far.
        end = self._ledger.head()
        self._requests.ask()
        self._requested = end
        return True

    def _start_over(self) -> None:
        self._requested = None
        if self._went_backwards:
            self._stop.wait(_PAUSE_S)

    def _look(self) -> Checkpoint:
        """Compares the audit log's end with the ledger, and requests a job if one was lost.

        No event announces a checkpoint that is due by time alone, or an index that lacks entries.
        """
        last, now = self._log.last(), time.monotonic()
        self._next_look = now + _LOOK_S
        was_backwards, self._went_backwards = self._went_backwards, not self._ledger.holds(last)
        if self._went_backwards:
            return last  # the subscription logs that the ledger lacks it
        if was_backwards:
            _log.info("the ledger holds the audit log's last event again")
        if last.position >= self._awaited:
            self._awaited, self._awaited_since = self._ledger.head().position, now
            self._request_checkpoint(last.position, now)
        elif now - self._awaited_since >= _LAG_S:
            self._awaited_since = now
            self._requests.ask()
        return self._requested or last

    def _request_checkpoint(self, position: int, now: float) -> None:
        if now < self._next_checkpoint:
            return
        is_indexed = self._log.search.indexed() >= position
        if is_indexed and not is_due(self._log, position, self._now_ms()):
            return
        self._next_checkpoint = now + _CHECKPOINT_S
        self._requests.ask()
