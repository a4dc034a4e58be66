"""Whether all that a web process needs is well, and the figures of it: for `/readyz` and `/metrics`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily as Gauge
from redis import RedisError

from services.audit.database import AuditDatabaseError
from services.composition import Parts
from services.keys.operations import status
from services.parts import now_ms
from shared.lag import lag_of
from shared.ledger import Checkpoint

# What a reader may be behind and the service still be called ready.
_LAG_EVENTS = 1_000
_LAG_MS = 30_000


def checks(parts: Parts) -> Mapping[str, Callable[[], str | None]]:
    """By name, what tells what is wrong; None where nothing is."""
    named = {"store": _store, "views": _views, "audit": _audit, "verifier": _verifier}
    return {name: partial(check, parts) for name, check in named.items()}


def _store(parts: Parts) -> str | None:
    try:
        parts.store.ping()
    except RedisError as error:
        return str(error)
    return None


def _views(parts: Parts) -> str | None:
    try:
        return _behind(parts, parts.views.live().checkpoint(), "The projector")
    except RedisError as error:
        return str(error)


def _audit(parts: Parts) -> str | None:
    try:
        return _behind(parts, parts.audit_log.last(), "The audit log")
    except (RedisError, AuditDatabaseError) as error:
        return str(error)


def _verifier(parts: Parts) -> str | None:
    if parts.tail.is_current:
        return None
    return "This web process does not follow the ledger: it reads it for every verdict, or gives none."


def _behind(parts: Parts, reached: Checkpoint, who: str) -> str | None:
    if not parts.ledger.holds(reached):
        return f"{who} has an event at position {reached.position} that the ledger lacks: it went backwards."
    lag = lag_of(reached.position, parts.ledger, now_ms())
    if lag.events > _LAG_EVENTS or lag.ms > _LAG_MS:
        return f"{who} is {lag.events} events and {lag.ms / 1000:.0f} s behind."
    return None


def figures(parts: Parts) -> Iterator[Metric]:
    """By the conventions of Prometheus: base units, and the unit at the end of the name."""
    try:
        found = [*_of_views(parts), *_of_audit(parts)]
    except RedisError:
        yield Gauge("keyledger_store_up", "Whether the store answers.", 0)
        return
    yield Gauge("keyledger_store_up", "Whether the store answers.", 1)
    yield from found


def _of_views(parts: Parts) -> Iterator[Metric]:
    views = status(parts.ledger, parts.views, now_ms())
    yield Gauge("keyledger_ledger_position", "The last position of the ledger.", views.lag.head)
    yield Gauge("keyledger_projector_position", "The last position in the views.", views.position)
    yield Gauge("keyledger_projector_lag_events", "Events that are not in the views.", views.lag.events)
    yield Gauge(
        "keyledger_projector_lag_seconds",
        "How long the oldest event waits that is not in the views.",
        views.lag.ms / 1000,
    )
    yield Gauge("keyledger_projector_parked_keys", "Keys set aside by the projector.", len(views.parked))


def _of_audit(parts: Parts) -> Iterator[Metric]:
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
    with suppress(AuditDatabaseError):
        position = parts.audit_log.last().position
        lag = lag_of(position, parts.ledger, now_ms())
        yield Gauge("keyledger_audit_position", "The last position in the audit log.", position)
        yield Gauge("keyledger_audit_lag_events", "Events that are not in the audit log.", lag.events)
        yield Gauge(
            "keyledger_audit_lag_seconds",
            "How long the oldest event waits that is not in the audit log.",
            lag.ms / 1000,
        )
