"""The audit log: its database, whether it keeps up, was checked, and is vouched for."""

from collections.abc import Iterator

from sqlalchemy import func, select

from services.audit.integrity.checkpoint import DUE_MS, unverified
from services.audit.integrity.signed_note import NoteError
from services.audit.log.store import AuditLog
from services.audit.monitoring.inspection import AuditInspection
from services.audit.monitoring.queue import check_queue, check_worker
from shared.clock import date_utc, now_ms
from shared.service.checks import (
    CLOCK,
    EVERYWHERE,
    WENT_BACKWARDS,
    Check,
    Concern,
    Finding,
    keeps_up,
    ok,
    problem,
    warning,
)
from shared.service.clocks import skew_of, skewed
from shared.service.installation import Installation

_DAY_MS = 24 * 60 * 60 * 1000
_CHECK_EVERY_MS = 7 * _DAY_MS
_OVERDUE_MS = 2 * DUE_MS
_OLDEST_POSTGRESQL = 14  # has CREATE OR REPLACE TRIGGER


def check_database(installation: Installation) -> Iterator[Finding]:
    """Whether it can be read, and what it is."""
    audit = installation.of(AuditInspection)
    if audit.database_away:
        yield audit.database_away
        return
    version = audit.database.read(lambda connection: connection.dialect.server_version_info or ())
    number = ".".join(map(str, version))
    if audit.database_file:
        yield ok(f"SQLite {number} reads {audit.database_file}")
    elif version < (_OLDEST_POSTGRESQL,):
        yield problem(f"PostgreSQL {number} is too old", f"Run {_OLDEST_POSTGRESQL} or later.")
    else:
        yield ok(f"PostgreSQL {number} answers")


def check_audit_log(installation: Installation) -> Iterator[Finding]:
    """Whether it keeps up with the ledger."""
    audit = installation.of(AuditInspection)
    progress = audit.status.progress()
    if progress.in_step:
        advice = (
            "See that `keyledger audit relay` and `audit worker` run; `keyledger audit status` says more."
        )
        yield keeps_up(progress.lag, advice)
        indexed = audit.log.search.indexed()
        if indexed < progress.position:
            yield warning(
                f"{progress.position - indexed:,} entries aren't indexed yet, so searches miss them and "
                "exports by filters are refused",
                "The audit worker indexes them. If it doesn't get on, run `keyledger audit reindex`.",
            )
        return
    yield problem(
        f"its last event, at position {progress.position:,}, is not in the ledger: that went backwards",
        f"Nothing is written to it until that is mended. {WENT_BACKWARDS}",
    )


def check_integrity(installation: Installation) -> Iterator[Finding]:
    """When it was checked, and what was found. A log is due for the first time when it is so old."""
    advice = "Run `keyledger audit check`, and let a timer run it every day."
    check, now = installation.of(AuditInspection).status.last_check(), now_ms()
    first = installation.shared.ledger.read(0, 1)
    since = check.at if check else first[0].at if first else now
    if check and not check.sound:
        yield problem(
            f"it was found not to be sound on {date_utc(check.at)}",
            "`keyledger audit check` says what is wrong; docs/runbooks.md says what to do.",
        )
    elif now - since > _CHECK_EVERY_MS:
        days = (now - since) // _DAY_MS
        yield warning(f"not checked for {days} days" if check else f"never checked in {days} days", advice)
    else:
        yield ok(
            f"found sound on {date_utc(check.at)}"
            if check
            else "not checked yet; `keyledger audit check` does it"
        )


def check_alarm(installation: Installation) -> Iterator[Finding]:
    """Whether an operator has acknowledged every alarm."""
    if alarm := installation.of(AuditInspection).alarms.current():
        kind, position, detail = alarm.finding
        yield problem(
            f"{kind} at {position:,}: {detail}",
            "Run `keyledger audit check`; docs/runbooks.md says when to acknowledge the alarm.",
        )
    else:
        yield ok("none")


def check_checkpoints(installation: Installation) -> Iterator[Finding]:
    """Whether one vouches for it, and none that was signed is gone."""
    audit = installation.of(AuditInspection)
    log, file = audit.log, audit.signer.anchor_file
    kept, anchor = log.last_checkpoint(), audit.signer.anchor()
    try:
        last = unverified(kept.note) if kept else None
        signed = unverified(anchor) if anchor else None
    except NoteError as error:
        yield problem(f"the last one cannot be read: {error}", "`keyledger audit check` says more.")
        return
    if signed and signed.sequence > (last.sequence if last else 0):
        yield problem(
            f"number {signed.sequence} was signed, and is gone from the database",
            f"An older copy of it came back: docs/runbooks.md says what to do. If on purpose, remove {file}.",
        )
    elif last and not signed:
        yield warning(
            f"{file} is missing: that the end of the log was cut off would not be seen",
            "Let the audit worker write beside its key, or keep `keyledger audit checkpoint` elsewhere.",
        )
    waits = _unvouched(log, last.position if last else 0)
    if waits > _OVERDUE_MS and not installation.store_away:
        yield problem(
            f"none for the entries of the last {waits // 60_000} minutes",
            "`keyledger audit status` says why the worker signs nothing.",
        )
    elif last:
        yield ok(f"number {last.sequence} of {date_utc(last.time)} vouches for all up to {last.position:,}")
    else:
        yield ok("none yet")


def _unvouched(log: AuditLog, position: int) -> int:
    """How long, in ms, the oldest entry waits that lies behind the last checkpoint."""
    first = next(log.walk(log.last().position, position), None)
    return now_ms() - first.at if first else 0


def check_database_clock(installation: Installation) -> Iterator[Finding]:
    """Compares this machine's clock with that of a database server."""
    audit = installation.of(AuditInspection)
    if audit.database_file:
        return
    now = select(func.extract("epoch", func.clock_timestamp()))
    skew = audit.database.read(
        lambda connection: skew_of(lambda: 1000 * float(connection.execute(now).scalar_one()))
    )
    yield skewed(skew, "the database's")


_BEHIND = "the-audit-log-is-behind"
_INTACT = "the-audit-log-is-not-intact"

CHECKS = (
    Check(
        "database", check_database, Concern.AUDIT_WEB | EVERYWHERE, "The audit log can't be read.", _BEHIND
    ),
    Check(
        "audit log", check_audit_log, EVERYWHERE, "The audit log is behind or ahead of the ledger.", _BEHIND
    ),
    Check("integrity", check_integrity, EVERYWHERE, "The last check of the audit log failed.", _INTACT),
    Check(
        "alarm",
        check_alarm,
        EVERYWHERE,
        "The audit log was changed, cut off, replaced or restored.",
        "an-alarm-about-the-audit-log",
    ),
    Check(
        "checkpoints", check_checkpoints, EVERYWHERE, "A signed checkpoint is missing or overdue.", _INTACT
    ),
    Check("queue", check_queue, EVERYWHERE, "Never. It warns of jobs that wait or failed.", _BEHIND),
    Check("worker", check_worker, EVERYWHERE, "No audit worker runs.", _BEHIND),
    Check("database clock", check_database_clock, EVERYWHERE, "The database's clock is over 5 s off.", CLOCK),
)
