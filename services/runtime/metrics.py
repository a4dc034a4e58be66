"""The metrics of Keyledger: those of all services, and those of the store, the ledger and the process.

Each metric is one line of a table, here or in a service's manifest; `metric_rows` returns them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from threading import Event as Stop
from threading import Thread
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, start_http_server
from prometheus_client.registry import Collector

from services.runtime.addresses import free_address
from shared.eventstore.envelope import Record
from shared.process.command_log import Observer, Outcome
from shared.process.telemetry import ErrorClock
from shared.service.components import Container
from shared.service.manifest import Manifest
from shared.service.metrics import Counted, Gauge, Polled, Source
from shared.settings import Settings
from shared.store.disk import free
from shared.web.health import Report
from shared.web.server.request_metrics import REQUESTS

COMMANDS = Counted("keyledger_commands", "counter", "Commands, by name and outcome.", ("command", "outcome"))
COMMAND_SECONDS = Counted(
    "keyledger_command_duration_seconds", "histogram", "Duration of commands.", ("command",)
)


class _Ledger(NamedTuple):
    memory: Mapping[str, Any]
    head: int
    last: Record | None


def _ledger(components: Container) -> _Ledger:
    ledger = components.shared.ledger
    return _Ledger(components.shared.store.info("memory"), ledger.head().position, ledger.newest())


LEDGER = Source(
    _ledger,
    (
        Gauge(
            "keyledger_store_memory_bytes", "Memory that the store uses.", lambda it: it.memory["used_memory"]
        ),
        Gauge(
            "keyledger_store_memory_limit_bytes",
            "Memory limit of the store. 0 means no limit.",
            lambda it: it.memory["maxmemory"],
        ),
        Gauge("keyledger_ledger_position", "Last position in the ledger.", lambda it: it.head),
        Gauge(
            "keyledger_ledger_last_event_timestamp_seconds",
            "Time of the last event. In the future if a clock was set back.",
            lambda it: it.last.at / 1000 if it.last else 0,
        ),
    ),
)


class WebProcess(NamedTuple):
    """What a web process knows without asking the store."""

    settings: Settings
    readiness: Callable[[], Report]
    status: Callable[[], Report]


WEB = (
    Gauge(
        "keyledger_ready",
        "1 if the check of /readyz passes, otherwise 0.",
        lambda web: _passes(web.readiness()),
        "check",
    ),
    Gauge(
        "keyledger_status",
        "1 if the check of /statusz passes, otherwise 0.",
        lambda web: _passes(web.status()),
        "check",
    ),
    Gauge(
        "keyledger_disk_free_bytes",
        "Free space on the disk of the data directory.",
        lambda web: free(web.settings.data_dir),
    ),
)
PROGRAM = (
    Gauge(
        "keyledger_process_last_error_timestamp_seconds",
        "Time at which this process last logged a warning or an error. 0 means never.",
        lambda errors: errors.last_at,
    ),
)


def _passes(report: Report) -> dict[str, float]:
    return {check: float(check not in report.wrong) for check in report.checks}


class Current(Collector):
    """Gauges that are computed at each scrape, because that costs nothing."""

    def __init__(self, subject: object, gauges: Sequence[Gauge]) -> None:
        self._subject = subject
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """Returns the metrics."""
        for gauge in self._gauges:
            yield from gauge.family(self._subject)


def sources(manifests: Sequence[Manifest]) -> Sequence[Source]:
    """Returns the sources of the ledger and of the services."""
    declared = (each for manifest in manifests for each in manifest.metrics())
    return (LEDGER, *(each for each in declared if isinstance(each, Source)))


def count_commands() -> Observer:
    """Returns an observer of commands that counts them and how long they took."""
    commands, seconds = COMMANDS.counter(), COMMAND_SECONDS.histogram()

    @cache
    def of_command(name: str, outcome: Outcome) -> tuple[Counter, Histogram]:
        return commands.labels(name, outcome), seconds.labels(name)

    def count(name: str, outcome: Outcome, took: float) -> None:
        ended, duration = of_command(name, outcome)
        ended.inc()
        duration.observe(took)

    return count


def serve_metrics(components: Container, manifest: Manifest, errors: ErrorClock) -> None:
    """Serves the metrics of a process without pages at KEYLEDGER_METRICS_PORT, if that is set.

    Raises AddressError.
    """
    settings = components.shared.settings
    if not settings.metrics_port:
        return
    polled = Polled(components, sources([manifest]))
    registry = CollectorRegistry()
    registry.register(polled)
    registry.register(Current(errors, PROGRAM))
    address = free_address(settings.host, settings.metrics_port, "KEYLEDGER_METRICS_PORT")
    start_http_server(settings.metrics_port, address, registry)
    Thread(target=polled.run, args=(Stop(),), daemon=True).start()


class MetricRow(NamedTuple):
    """A metric as the documentation describes it."""

    name: str
    kind: str
    labels: Sequence[str]
    help: str
    processes: str


def metric_rows(manifests: Sequence[Manifest]) -> Iterator[MetricRow]:
    """Yields every metric, by the name that Prometheus stores."""
    programs = {manifest.name: [each.name for each in manifest.programs] for manifest in manifests}
    everyone = ", ".join(["web", *(name for names in programs.values() for name in names)])
    for gauge in WEB:
        yield _row(gauge, "web")
    for counted in (COMMANDS, COMMAND_SECONDS, REQUESTS):
        yield _counted_row(counted)
    for gauge in LEDGER.gauges:
        yield _row(gauge, everyone)
    for manifest in manifests:
        for declared in manifest.metrics():
            if isinstance(declared, Counted):
                yield _counted_row(declared)
            else:
                processes = ", ".join(["web", *programs[manifest.name]])
                yield from (_row(gauge, processes) for gauge in declared.gauges)
    for gauge in PROGRAM:
        yield _row(gauge, everyone.removeprefix("web, "))


def _row(gauge: Gauge, processes: str) -> MetricRow:
    return MetricRow(gauge.name, "gauge", [gauge.label] if gauge.label else [], gauge.help, processes)


def _counted_row(counted: Counted) -> MetricRow:
    name = f"{counted.name}_total" if counted.kind == "counter" else counted.name
    return MetricRow(name, counted.kind, counted.labels, counted.help, "web")
