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
    """The last check of the whole log, as the ledger recorded it."""

    at: int
    by: str  # the actor's label
    position: int  # the end of the log
    entries: int
    checkpoints: int
    findings: Sequence[AuditFinding]

    @property
    def intact(self) -> bool:
        return not self.findings


class LastCheckpoint(NamedTuple):
    """The last checkpoint in the log, its signature not verified, and its signed note."""

    checkpoint: SignedCheckpoint
    note: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the log is, and the jobs that bring it up to date."""

    position: int
    lag: Lag
    in_step: bool  # whether the ledger has the last event of the log
    waiting: int  # jobs
    failed: int  # jobs, in the last hour
    failures: Sequence[Failure]  # the newest of them


@dataclass(frozen=True)
class AuditStatus:
    """The audit log's status. Every method raises redis.RedisError and AuditDatabaseError."""

    comparison: Comparison
    signer: Signer
    failures: Failures
    now_ms: Callable[[], int]

    @property
    def log(self) -> AuditLog:
        return self.comparison.log

    @property
    def ledger(self) -> Ledger:
        return self.comparison.ledger

    def alarm(self) -> Alarm | None:
        """Returns the unacknowledged alarm, or one about a signed checkpoint that is missing."""
        return self.comparison.alarms.current() or self._missing_checkpoint()

    def _missing_checkpoint(self) -> Alarm | None:
        with suppress(NoteError, SigningError):
            anchor = self.signer.anchor()  # before the database, which gets each checkpoint earlier
            signed, last = unverified(anchor).sequence if anchor else 0, self.log.last_checkpoint()
            if signed > (last.sequence if last else 0):
                detail = "it was signed, but is missing from the database"
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
        last, now = self.log.last(), self.now_ms()
        return Progress(
            position=last.position,
            lag=lag_of(last.position, self.ledger, now),
            in_step=self.ledger.holds(last),
            waiting=self.failures.waiting(),
            failed=self.failures.count(now),
            failures=self.failures.newest(_FAILURES_SHOWN),
        )
