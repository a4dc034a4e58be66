"""The metrics of the audit service."""

from typing import NamedTuple

from redis import RedisError

from services.audit.components import AuditComponents
from services.audit.ingest.failures import Failures
from services.audit.log.database import AuditDatabaseError
from services.audit.status import LastCheck
from shared.clock import now_ms
from shared.eventstore.subscription import Lag, lag_of
from shared.service.components import Container
from shared.service.metrics import Gauge, Source, lag_gauges


class _Queue(NamedTuple):
    waiting: int
    failed: int
    check: LastCheck | None


class _Log(NamedTuple):
    position: int
    lag: Lag
    is_alarmed: bool


def _queue(components: Container) -> _Queue:
    failures = Failures(components.shared.store)
    return _Queue(
        failures.waiting(), failures.count(now_ms()), components.of(AuditComponents).status.last_check()
    )


def _log(components: Container) -> _Log:
    audit, ledger = components.of(AuditComponents), components.shared.ledger
    position = audit.log.last().position
    return _Log(position, lag_of(position, ledger, now_ms()), audit.status.alarm() is not None)


METRICS = (
    Source(
        _queue,
        (
            Gauge("keyledger_audit_queue_depth", "Jobs waiting for the audit worker.", lambda it: it.waiting),
            Gauge(
                "keyledger_audit_failed_jobs", "Jobs that failed within the last hour.", lambda it: it.failed
            ),
            Gauge(
                "keyledger_audit_sound",
                "1 if the last check found the audit log intact, otherwise 0.",
                lambda it: it.check and it.check.intact,
            ),
            Gauge(
                "keyledger_audit_checked_timestamp_seconds",
                "Time at which the last check of the audit log ended.",
                lambda it: it.check and it.check.at / 1000,
            ),
        ),
    ),
    Source(
        _log,
        (
            Gauge("keyledger_audit_position", "Last position in the audit log.", lambda it: it.position),
            *lag_gauges("audit", "the audit log", lambda it: it.lag),
            Gauge("keyledger_audit_alarm", "1 if an alarm is active, otherwise 0.", lambda it: it.is_alarmed),
        ),
        (RedisError, AuditDatabaseError),
    ),
)
