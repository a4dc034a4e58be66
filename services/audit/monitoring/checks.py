"""The checks of the audit log: its database, whether it keeps up, and its integrity."""

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
    """Checks whether the database can be read, and which server it is."""
    audit = installation.of(AuditInspection)
    if audit.database_problem:
        yield audit.database_problem
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
    """Checks whether the audit log keeps up with the ledger."""
    audit = installation.of(AuditInspection)
    progress = audit.status.progress()
    if progress.in_step:
        advice = (
            "Make sure that `keyledger audit relay` and `audit worker` run; see `keyledger audit status`."
        )
        yield keeps_up(progress.lag, advice)
        indexed = audit.log.search.indexed()
        if indexed < progress.position:
            yield warning(
                f"{progress.position - indexed:,} entries aren't indexed yet, so searches miss them and "
                "exports by filters are refused",
                "The audit worker indexes them. If it makes no progress, run `keyledger audit reindex`.",
            )
        return
    yield problem(
        f"its last event, at position {progress.position:,}, isn't in the ledger: that went backwards",
        f"Nothing is written to it until that is fixed. {WENT_BACKWARDS}",
    )


def check_integrity(installation: Installation) -> Iterator[Finding]:
    """Checks the last verification. A new log is due once it is as old as one that was verified."""
    advice = "Run `keyledger audit check`, and schedule it daily."
    check, now = installation.of(AuditInspection).status.last_check(), now_ms()
    first = installation.shared.ledger.read(0, 1)
    since = check.at if check else first[0].at if first else now
    if check and not check.intact:
        yield problem(
            f"verification failed on {date_utc(check.at)}",
            "`keyledger audit check` shows what is wrong; docs/runbooks.md says what to do.",
        )
    elif now - since > _CHECK_EVERY_MS:
        days = (now - since) // _DAY_MS
        yield warning(f"not verified for {days} days" if check else f"never verified in {days} days", advice)
    else:
        yield ok(
            f"verified on {date_utc(check.at)}" if check else "not verified yet; run `keyledger audit check`"
        )


def check_alarm(installation: Installation) -> Iterator[Finding]:
    """Checks whether an operator has acknowledged every alarm."""
    if alarm := installation.of(AuditInspection).alarms.current():
        kind, position, detail = alarm.finding
        yield problem(
            f"{kind} at {position:,}: {detail}",
            "Run `keyledger audit check`; docs/runbooks.md says when to acknowledge the alarm.",
        )
    else:
        yield ok("none")


def check_checkpoints(installation: Installation) -> Iterator[Finding]:
    """Checks whether a recent checkpoint covers the log, and whether a signed one is missing."""
    audit = installation.of(AuditInspection)
    log, file = audit.log, audit.signer.anchor_file
    kept, anchor = log.last_checkpoint(), audit.signer.anchor()
    try:
        last = unverified(kept.note) if kept else None
        signed = unverified(anchor) if anchor else None
    except NoteError as error:
        yield problem(f"the last one can't be read: {error}", "`keyledger audit check` says more.")
        return
    if signed and signed.sequence > (last.sequence if last else 0):
        yield problem(
            f"number {signed.sequence} was signed, but is missing from the database",
            f"An older copy was restored: see docs/runbooks.md. If on purpose, remove {file}.",
        )
    elif last and not signed:
        yield warning(
            f"{file} is missing: a cut-off end of the log would go unnoticed",
            "Let the audit worker write next to its key, or save `keyledger audit checkpoint` elsewhere.",
        )
    waits = _uncovered(log, last.position if last else 0)
    if waits > _OVERDUE_MS and not installation.store_away:
        yield problem(
            f"none covers the entries of the last {waits // 60_000} minutes",
            "`keyledger audit status` shows why the worker signs nothing.",
        )
    elif last:
        yield ok(f"number {last.sequence} of {date_utc(last.time)} covers all up to {last.position:,}")
    else:
        yield ok("none yet")


def _uncovered(log: AuditLog, position: int) -> int:
    """Returns how long, in ms, the oldest entry without a checkpoint has been waiting."""
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
    Check("queue", check_queue, EVERYWHERE, "Never. It warns about waiting and failed jobs.", _BEHIND),
    Check("worker", check_worker, EVERYWHERE, "No audit worker runs.", _BEHIND),
    Check("database clock", check_database_clock, EVERYWHERE, "The database's clock is over 5 s off.", CLOCK),
)
