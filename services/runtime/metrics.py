"""The figures of a Keyledger for Prometheus: what its web processes counted, and the current status.

By the conventions of Prometheus: base units, the unit at the end of the name, `_total` behind what only
grows.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from threading import Event as Stop

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily as Gauge
from redis import RedisError

from services.audit.log.database import AuditDatabaseError
from services.keys.read_model.operations import status
from services.keys.verification.verifier import CODES
from services.keys.web.fast_path import UNAVAILABLE
from services.runtime.checks import CheckRunner
from services.runtime.components import Container
from shared.components import now_ms
from shared.eventstore.lag import Lag, lag_of
from shared.process.command_log import Outcome
from shared.store.disk import free
from shared.web.health import Report

_READ_EVERY_S = 2.0
_FRESH_S = 10.0  # for which they are shown; a figure that stands still hides what an alert waits for

_COMMANDS = Counter("keyledger_commands", "Commands that ended.", ["command", "outcome"])
_COMMAND_SECONDS = Histogram("keyledger_command_duration_seconds", "How long commands took.", ["command"])
_VERDICTS = Counter("keyledger_verdicts", "Verdicts given to callers and gateways.", ["code"])
_COUNT = {code: _VERDICTS.labels(code).inc for code in (*CODES, UNAVAILABLE)}


def count_verdict(code: str) -> None:
    """What `VerdictEndpoints` tells of each verdict."""
    _COUNT[code]()


def count_command(name: str, outcome: Outcome, seconds: float) -> None:
    """What `shared.process.command_log` tells of each command."""
    ended, took = _of_command(name, outcome)
    ended.inc()
    took.observe(seconds)


@cache
def _of_command(name: str, outcome: Outcome) -> tuple[Counter, Histogram]:
    return _COMMANDS.labels(name, outcome), _COMMAND_SECONDS.labels(name)


class Metrics:
    """How everything stood when it was looked at last, so that asking for it costs nothing.

    What can't be asked is left out, and `keyledger_status` says why.
    """

    def __init__(self, components: Container, readiness: CheckRunner, status: CheckRunner) -> None:
        self._components = components
        self._readiness = readiness
        self._status = status
        self._read: Sequence[Metric] = ()
        self._read_at = float("-inf")

    def __call__(self) -> Iterator[Metric]:
        """The figures."""
        yield _levels("keyledger_ready", "Whether a check of /readyz passes.", self._readiness.report())
        yield _levels("keyledger_status", "Whether a check of /statusz passes.", self._status.report())
        yield Gauge(
            "keyledger_disk_free_bytes",
            "What is free where the data directory is.",
            free(self._components.settings.data_dir),
        )
        if time.monotonic() - self._read_at < _FRESH_S:
            yield from self._read

    def run(self, stop: Stop) -> None:
        """Reads them again and again until told to stop."""
        while not stop.is_set():
            self.read()
            stop.wait(_READ_EVERY_S)

    def read(self) -> None:
        """Reads them once."""
        self._read = [*_asked(self._components)]
        self._read_at = time.monotonic()


def _levels(name: str, meaning: str, report: Report) -> Metric:
    gauge = Gauge(name, meaning, labels=["check"])
    for check in report.checks:
        gauge.add_metric([check], check not in report.wrong)
    return gauge


def _asked(components: Container) -> Iterator[Metric]:
    with suppress(RedisError):
        yield from [*_of_store(components), *_of_views(components), *_of_queue(components)]
    with suppress(RedisError, AuditDatabaseError):
        yield from [*_of_audit(components)]


def _of_store(components: Container) -> Iterator[Metric]:
    last = components.ledger.newest()
    memory = components.store.info("memory")
    yield Gauge("keyledger_store_memory_bytes", "What the store uses.", memory["used_memory"])
    yield Gauge(
        "keyledger_store_memory_limit_bytes", "What the store may use; 0: no limit.", memory["maxmemory"]
    )
    yield Gauge(
        "keyledger_ledger_position", "The last position of the ledger.", components.ledger.head().position
    )
    yield Gauge(
        "keyledger_ledger_last_event_timestamp_seconds",
        "When the last event happened; later than now, if a clock was set back.",
        last.at / 1000 if last else 0,
    )


def _of_views(components: Container) -> Iterator[Metric]:
    views = status(components.ledger, components.views, now_ms())
    yield Gauge("keyledger_projector_position", "The last position in the views.", views.position)
    yield from _lag("projector", "the views", views.lag)
    yield Gauge("keyledger_projector_parked_keys", "Keys set aside by the projector.", len(views.parked))


def _of_queue(components: Container) -> Iterator[Metric]:
    failures = components.standing.failures
    yield Gauge("keyledger_audit_queue_depth", "Jobs that wait for the audit worker.", failures.waiting())
    yield Gauge(
        "keyledger_audit_failed_jobs", "Jobs that failed within the last hour.", failures.count(now_ms())
    )
    if check := components.standing.last_check():
        yield Gauge("keyledger_audit_sound", "Whether the last check found nothing wrong.", check.sound)
        yield Gauge(
            "keyledger_audit_checked_timestamp_seconds", "When the last check ended.", check.at / 1000
        )


def _of_audit(components: Container) -> Iterator[Metric]:
    position = components.audit_log.last().position
    yield Gauge("keyledger_audit_position", "The last position in the audit log.", position)
    yield from _lag("audit", "the audit log", lag_of(position, components.ledger, now_ms()))
    alarm = components.standing.alarm()
    yield Gauge("keyledger_audit_alarm", "Whether an alarm is not acknowledged.", alarm is not None)


def _lag(reader: str, place: str, lag: Lag) -> Iterator[Metric]:
    yield Gauge(f"keyledger_{reader}_lag_events", f"Events that are not in {place}.", lag.events)
    yield Gauge(
        f"keyledger_{reader}_lag_seconds",
        f"How long the oldest event waits that is not in {place}.",
        lag.ms / 1000,
    )
