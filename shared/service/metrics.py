"""Metrics as data: one line each, from which the exposition and the documentation are made.

Names follow Prometheus's conventions: base units, the unit at the end of the name, `_total` behind what only
grows.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Event as Stop
from typing import Any, Literal, NamedTuple, TypeAlias

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import RedisError

from shared.eventstore.subscription import Lag
from shared.service.components import Container

_READ_EVERY_S = 2.0
_FRESH_S = 10.0  # how long a value is shown: an old one would hide what an alert waits for


class Gauge(NamedTuple):
    """A metric that is computed from what its source read.

    `value` returns a number, or one number per value of `label`, or None to leave the metric out.
    """

    name: str
    help: str
    value: Callable[[Any], float | Mapping[str, float] | None]
    label: str | None = None

    def family(self, read: object) -> Iterator[Metric]:
        """Returns the metric in Prometheus's form, if it has a value."""
        value = self.value(read)
        if value is None:
            return
        family = GaugeMetricFamily(self.name, self.help, labels=[self.label] if self.label else None)
        for label, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
            family.add_metric([] if label is None else [label], number)
        yield family


class Source(NamedTuple):
    """What is read at once for some gauges; they are left out while it raises `unavailable`."""

    read: Callable[[Container], Any]
    gauges: Sequence[Gauge]
    unavailable: tuple[type[Exception], ...] = (RedisError,)


class Counted(NamedTuple):
    """A metric that the processes count themselves."""

    name: str
    kind: Literal["counter", "histogram"]
    help: str
    labels: tuple[str, ...]

    def counter(self) -> Counter:
        return Counter(self.name, self.help, self.labels, registry=None)

    def histogram(self, buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS) -> Histogram:
        return Histogram(self.name, self.help, self.labels, registry=None, buckets=buckets)


Metrics: TypeAlias = Source | Counted  # what a service declares


class Polled(Collector):
    """The gauges of some sources, which a thread reads, so that a scrape costs the store nothing."""

    def __init__(self, components: Container, sources: Sequence[Source]) -> None:
        self._components = components
        self._sources = sources
        self._read: Sequence[Metric] = ()
        self._read_at = float("-inf")

    def collect(self) -> Iterable[Metric]:
        """Returns what was read last, unless that is too old."""
        return self._read if time.monotonic() - self._read_at < _FRESH_S else ()

    def run(self, stop: Stop) -> None:
        """Reads the sources every two seconds until `stop` is set."""
        while not stop.is_set():
            self.read()
            stop.wait(_READ_EVERY_S)

    def read(self) -> None:
        """Reads the sources once."""
        self._read = [family for source in self._sources for family in self._families(source)]
        self._read_at = time.monotonic()

    def _families(self, source: Source) -> Sequence[Metric]:
        with suppress(*source.unavailable):
            read = source.read(self._components)
            return [family for gauge in source.gauges for family in gauge.family(read)]
        return ()


def lag_gauges(reader: str, place: str, lag: Callable[[Any], Lag]) -> Sequence[Gauge]:
    """Returns the two gauges of how far a reader is behind the ledger."""
    return (
        Gauge(
            f"keyledger_{reader}_lag_events",
            f"Events that aren't in {place} yet.",
            lambda read: lag(read).events,
        ),
        Gauge(
            f"keyledger_{reader}_lag_seconds",
            f"Age of the oldest event that isn't in {place} yet.",
            lambda read: lag(read).ms / 1000,
        ),
    )
