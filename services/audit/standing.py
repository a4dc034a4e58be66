"""How the audit log stands: what the last check found, who vouches for it, and whether it keeps up."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from services.audit.alarms import Alarm
from services.audit.audit_log import AuditLog
from services.audit.checkpoints import Checkpoint, unverified
from services.audit.comparison import Comparison
from services.audit.failures import Failure, Failures
from services.audit.findings import Finding, Kind
from services.audit.notes import NoteError
from services.audit.signing import Signer, SigningError
from shared.events import AUDIT_SUBJECT, AuditChecked, AuditFinding
from shared.lag import Lag, lag_of
from shared.ledger import Ledger

CHECKS = f"{AUDIT_SUBJECT}checks"
_FAILURES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class LastCheck:
    """What the ledger tells of the last check of the whole log."""

    at: int
    by: str  # the label
    position: int  # how far the log went
    entries: int
    checkpoints: int
    findings: Sequence[AuditFinding]

    @property
    def sound(self) -> bool:
        """Whether nothing was wrong."""
        return not self.findings


class Vouched(NamedTuple):
    """The last checkpoint in the log, which nobody verified here, and its signed note."""

    checkpoint: Checkpoint
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
class Standing:
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
        """The alarm that nobody has acknowledged; also that a checkpoint that was signed is gone."""
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
        """The last one that was told to the ledger; None, if there never was one."""
        event = self.ledger.last(CHECKS)
        if event is None:
            return None
        fact: AuditChecked = event.data
        return LastCheck(
            at=event.at,
            by=event.actor.label,
            position=fact.position,
            entries=fact.entries,
            checkpoints=fact.checkpoints,
            findings=fact.findings,
        )

    def vouched(self) -> Vouched | None:
        """The last checkpoint; None, if there is none that can be read."""
        last = self.log.last_checkpoint()
        with suppress(NoteError):
            return Vouched(unverified(last.note), last.note.decode()) if last else None
        return None

    def public_key(self) -> str | None:
        """By what the signatures are verified; None where the key cannot be used."""
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
