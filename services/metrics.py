"""The figures of a Keyledger for Prometheus: what its web processes counted, and how all stands.

By the conventions of Prometheus: base units, the unit at the end of the name, `_total` behind what only
grows.
"""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily as Gauge
from redis import RedisError

from services.audit.database import AuditDatabaseError
from services.composition import Parts
from services.health import Checks, last_event_ms
from services.keys.operations import status
from services.keys.verification import CODES
from services.keys.verify_calls import UNAVAILABLE
from services.parts import now_ms
from shared.commands import Outcome
from shared.disk import free
from shared.lag import Lag, lag_of

_COMMANDS = Counter("keyledger_commands", "Commands that ended.", ["command", "outcome"])
_COMMAND_SECONDS = Histogram("keyledger_command_duration_seconds", "How long commands took.", ["command"])
_VERDICTS = Counter("keyledger_verdicts", "Verdicts given to callers and gateways.", ["code"])
_COUNT = {code: _VERDICTS.labels(code).inc for code in (*CODES, UNAVAILABLE)}


def count_verdict(code: str) -> None:
    """What `VerdictCalls` tells of each verdict."""
    _COUNT[code]()


def count_command(name: str, outcome: Outcome, seconds: float) -> None:
    """What `shared.commands` tells of each command."""
    ended, took = _of_command(name, outcome)
    ended.inc()
    took.observe(seconds)


@cache
def _of_command(name: str, outcome: Outcome) -> tuple[Counter, Histogram]:
    return _COMMANDS.labels(name, outcome), _COMMAND_SECONDS.labels(name)


def figures(parts: Parts, checks: Checks) -> Iterator[Metric]:
    """How everything stands now; what cannot be asked is left out, and `keyledger_ready` says why."""
    ready = Gauge("keyledger_ready", "Whether a check of /readyz passes.", labels=["check"])
    for name, trouble in checks.troubles().items():
        ready.add_metric([name], trouble is None)
    yield ready
    yield Gauge(
        "keyledger_disk_free_bytes",
        "What is free where the data directory is.",
        free(parts.settings.data_dir),
    )
    with suppress(RedisError):
        yield from [*_of_store(parts), *_of_views(parts), *_of_queue(parts)]
    with suppress(RedisError, AuditDatabaseError):
        yield from [*_of_audit(parts)]


def _of_store(parts: Parts) -> Iterator[Metric]:
    memory = parts.store.info("memory")
    yield Gauge("keyledger_store_memory_bytes", "What the store uses.", memory["used_memory"])
    yield Gauge(
        "keyledger_store_memory_limit_bytes", "What the store may use; 0: no limit.", memory["maxmemory"]
    )
    yield Gauge("keyledger_ledger_position", "The last position of the ledger.", parts.ledger.head().position)
    yield Gauge(
        "keyledger_ledger_last_event_timestamp_seconds",
        "When the last event happened; later than now, if a clock was set back.",
        last_event_ms(parts) / 1000,
    )


def _of_views(parts: Parts) -> Iterator[Metric]:
    views = status(parts.ledger, parts.views, now_ms())
    yield Gauge("keyledger_projector_position", "The last position in the views.", views.position)
    yield from _lag("projector", "the views", views.lag)
    yield Gauge("keyledger_projector_parked_keys", "Keys set aside by the projector.", len(views.parked))


def _of_queue(parts: Parts) -> Iterator[Metric]:
    failures = parts.standing.failures
    yield Gauge("keyledger_audit_queue_depth", "Jobs that wait for the audit worker.", failures.waiting())
    yield Gauge(
        "keyledger_audit_failed_jobs", "Jobs that failed within the last hour.", failures.count(now_ms())
    )
    if check := parts.standing.last_check():
        yield Gauge("keyledger_audit_sound", "Whether the last check found nothing wrong.", check.sound)
        yield Gauge(
            "keyledger_audit_checked_timestamp_seconds", "When the last check ended.", check.at / 1000
        )


def _of_audit(parts: Parts) -> Iterator[Metric]:
    position = parts.audit_log.last().position
    yield Gauge("keyledger_audit_position", "The last position in the audit log.", position)
    yield from _lag("audit", "the audit log", lag_of(position, parts.ledger, now_ms()))


def _lag(reader: str, place: str, lag: Lag) -> Iterator[Metric]:
    yield Gauge(f"keyledger_{reader}_lag_events", f"Events that are not in {place}.", lag.events)
    yield Gauge(
        f"keyledger_{reader}_lag_seconds",
        f"How long the oldest event waits that is not in {place}.",
        lag.ms / 1000,
    )
