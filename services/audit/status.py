"""The status of the audit log: its last check, its last checkpoint, its alarm, and its lag."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from services.audit.ingest.failures import Failure, Failures
from services.audit.integrity.alarms import Alarm
from services.audit.integrity.checkpoint import SignedCheckpoint, unverified
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.findings import Finding, Kind
from services.audit.integrity.signed_note import NoteError
from services.audit.integrity.signer import Signer, SigningError
from services.audit.log.store import AuditLog
from shared.eventstore.events import AuditChecked, AuditFinding
from shared.eventstore.ledger import Ledger
from shared.eventstore.payload import AUDIT_SUBJECT
from shared.eventstore.subscription import Lag, lag_of

CHECKS = f"{AUDIT_SUBJECT}checks"
_FAILURES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class LastCheck:
    """What the ledger records of the last check of the whole log."""

    at: int
    by: str  # the label
    position: int  # how far the log went
    entries: int
    checkpoints: int
    findings: Sequence[AuditFinding]

    @property
    def intact(self) -> bool:
        """Whether nothing was wrong."""
        return not self.findings


class LastCheckpoint(NamedTuple):
    """The last checkpoint in the log, its signature not verified, and its signed note."""

    checkpoint: SignedCheckpoint
    note: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the log is, and what hinders it."""

    position: int
    lag: Lag
    in_step: bool  # whether the ledger holds the event that the log ends with
    waiting: int  # jobs
    failed: int  # jobs, in the last hour
    failures: Sequence[Failure]  # the newest of them


@dataclass(frozen=True)
class AuditStatus:
    """Asks the log, the ledger and the queue. All of it raises redis.RedisError and AuditDatabaseError."""

    comparison: Comparison
    signer: Signer
    failures: Failures
    now_ms: Callable[[], int]

    @property
    def log(self) -> AuditLog:
        """The log."""
        return self.comparison.log

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        return self.comparison.ledger

    def alarm(self) -> Alarm | None:
        """Returns the unacknowledged alarm, or one about a signed checkpoint that is gone."""
        return self.comparison.alarms.current() or self._checkpoint_gone()

    def _checkpoint_gone(self) -> Alarm | None:
        with suppress(NoteError, SigningError):
            anchor = self.signer.anchor()  # before the database's own, which an intact one has by then
            signed, last = unverified(anchor).sequence if anchor else 0, self.log.last_checkpoint()
            if signed > (last.sequence if last else 0):
                detail = "it was signed, and is gone from the database"
                return Alarm(self.now_ms(), Finding(Kind.CHECKPOINT_MISSING, signed, detail))
        return None

    def last_check(self) -> LastCheck | None:
        """Returns the last check that the ledger records, or None."""
        event = self.ledger.last(CHECKS)
        if event is None:
            return None
        payload: AuditChecked = event.data
        return LastCheck(
            at=event.at,
            by=event.actor.label,
            position=payload.position,
            entries=payload.entries,
            checkpoints=payload.checkpoints,
            findings=payload.findings,
        )

    def last_checkpoint(self) -> LastCheckpoint | None:
        """Returns the last checkpoint, or None if there is none or it can't be read."""
        last = self.log.last_checkpoint()
        with suppress(NoteError):
            return LastCheckpoint(unverified(last.note), last.note.decode()) if last else None
        return None

    def public_key(self) -> str | None:
        """Returns the key that verifies the signatures, or None if it can't be read."""
        with suppress(SigningError):
            return str(self.signer.public_key)
        return None

    def progress(self) -> Progress:
        """Whether the log keeps up with the ledger."""
        last, now = self.log.last(), self.now_ms()
        return Progress(
            position=last.position,
            lag=lag_of(last.position, self.ledger, now),
            in_step=self.ledger.holds(last),
            waiting=self.failures.waiting(),
            failed=self.failures.count(now),
            failures=self.failures.newest(_FAILURES_SHOWN),
        )
