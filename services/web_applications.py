"""The web applications: what each web process begins with, put together from the parts of all services."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.util import Finalize
from threading import Event as Stop
from threading import Thread

from flask import Flask
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily as Gauge
from redis import RedisError

from services.accounts.app import register as register_accounts
from services.accounts.incidents import WAITING
from services.audit.app import register as register_audit
from services.audit.database import AuditDatabaseError
from services.composition import Parts, now_ms
from services.keys.app import register as register_keys
from services.keys.create_call import CreateCall
from services.keys.operations import status
from shared.connections import StoreError
from shared.ledger import Checkpoint, Ledger
from shared.settings import Settings
from shared.telemetry import configure_logs
from shared.web.access import Access
from shared.web.app import JsonApi, create_app, trust_proxies
from shared.web.health import attach_health
from shared.web.session import StoredSessions

_LAG_MOST = 1_000  # events that a reader may be behind and the service still be called ready


def create_web() -> Flask:
    """The whole web application, from the environment: what each web process begins with."""
    parts = _parts_of_environment()
    app, api = _base(parts, home="keys.list_keys")
    create = CreateCall(parts.keys.commands, parts.authenticator, parts.limits)
    register_keys(app, api, parts.keys, parts.verdicts, create, parts.usage)
    register_accounts(app, parts.accounts, parts.sign_in, parts.directory)
    register_audit(app, api, parts.audit_log, parts.ledger, parts.inquiries, parts.exports)
    trust_proxies(app, parts.settings.trusted_proxies)
    return app


def create_audit_web() -> Flask:
    """The audit pages and calls alone."""
    parts = _parts_of_environment()
    app, api = _base(parts, home="audit.entries_page")
    register_accounts(app, parts.accounts, parts.sign_in, parts.directory)
    register_audit(app, api, parts.audit_log, parts.ledger, parts.inquiries, parts.exports)
    trust_proxies(app, parts.settings.trusted_proxies)
    return app


def _parts_of_environment() -> Parts:
    configure_logs()
    settings = Settings.from_environment()
    if settings.redis_url is None:
        raise RuntimeError("a web process is told its store by the process that starts it")
    return Parts(settings, settings.redis_url)


def _base(parts: Parts, home: str) -> tuple[Flask, JsonApi]:
    access = Access(parts.authenticator, parts.accounts.principal_of, parts.incidents.access_denied)
    app, api = create_app(
        secret_key=parts.settings.secret_key or "",
        sessions=StoredSessions(parts.store),
        access=access,
        home=home,
        limits=parts.limits,
    )
    _run_beside(parts)
    checks = {"store": _store, "views": _views, "audit": _audit, "verifier": _verifier}
    attach_health(
        app,
        {name: partial(check, parts) for name, check in checks.items()},
        partial(_figures, parts),
    )
    return app, api


def _run_beside(parts: Parts) -> None:
    """Follows the ledger, flushes the uses and tells of incidents for as long as the process lives.

    The last two are done once more at its end: a web worker is a process of multiprocessing, which ends
    without `atexit`.
    """
    stop = Stop()
    for run in (parts.tail.run, parts.usage.run, parts.incidents.run):
        Thread(target=run, args=(stop,), daemon=True).start()

    def end() -> None:
        stop.set()
        with suppress(RedisError, StoreError):
            parts.usage.flush()
        with suppress(*WAITING):
            parts.incidents.tell()

    Finalize(None, end, exitpriority=0)


def _store(parts: Parts) -> str | None:
    try:
        parts.store.ping()
    except RedisError as error:
        return str(error)
    return None


def _views(parts: Parts) -> str | None:
    try:
        return _lag(parts.ledger, parts.views.live().checkpoint(), "The projector")
    except RedisError as error:
        return str(error)


def _audit(parts: Parts) -> str | None:
    try:
        return _lag(parts.ledger, parts.audit_log.last(), "The audit log")
    except (RedisError, AuditDatabaseError) as error:
        return str(error)


def _verifier(parts: Parts) -> str | None:
    if parts.tail.is_current:
        return None
    return "This web process does not follow the ledger: it reads it for every verdict, or gives none."


def _lag(ledger: Ledger, reached: Checkpoint, who: str) -> str | None:
    if not ledger.holds(reached):
        return f"{who} has an event at position {reached.position} that the ledger lacks: it went backwards."
    lag = ledger.head().position - reached.position
    return f"{who} is {lag} events behind." if lag > _LAG_MOST else None


def _figures(parts: Parts) -> Iterator[Metric]:
    """By the conventions of Prometheus: base units, and the unit at the end of the name."""
    try:
        views = status(parts.ledger, parts.views, now_ms())
    except RedisError:
        yield Gauge("keyledger_store_up", "Whether the store answers.", 0)
        return
    yield Gauge("keyledger_store_up", "Whether the store answers.", 1)
    yield Gauge("keyledger_ledger_position", "The last position of the ledger.", views.head)
    yield Gauge("keyledger_projector_position", "The last position in the views.", views.position)
    yield Gauge("keyledger_projector_lag_events", "Events that are not in the views.", views.lag)
    yield Gauge(
        "keyledger_projector_lag_seconds",
        "How long the oldest event waits that is not in the views.",
        views.lag_ms / 1000,
    )
    yield Gauge("keyledger_projector_parked_keys", "Keys set aside by the projector.", len(views.parked))
    with suppress(AuditDatabaseError):
        lag = views.head - parts.audit_log.last().position
        yield Gauge("keyledger_audit_lag_events", "Events that are not in the audit log.", lag)
