"""Builds each process from its parts. Only this module and the command line know all the services."""

import os
import secrets
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing.util import Finalize
from threading import Event as Stop
from threading import Thread

from flask import Flask
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily as Gauge
from redis import Redis, RedisError

from services.accounts.app import register as register_accounts
from services.accounts.commands import Accounts
from services.accounts.credentials import Passwords
from services.audit.app import register as register_audit
from services.audit.audit_log import AuditLog
from services.audit.database import AuditDatabaseError
from services.audit.jobs import Requests
from services.audit.relay import Relay
from services.keys.app import register as register_keys
from services.keys.commands import KeyCommands
from services.keys.create_call import CreateCall
from services.keys.currency import Tail
from services.keys.operations import status
from services.keys.projector import Projector
from services.keys.service import Keys
from services.keys.standings import Memory
from services.keys.usage import Usage
from services.keys.verification import KeyAuthenticator, Verifier
from services.keys.verify_calls import VerdictCalls
from services.keys.views import Views
from shared.connections import StoreError, connect
from shared.embedded import make_data_directory
from shared.ledger import Checkpoint, Ledger
from shared.settings import Settings
from shared.telemetry import configure_logs
from shared.web.access import Access
from shared.web.app import JsonApi, create_app
from shared.web.health import attach_health
from shared.web.limits import Limits
from shared.web.session import StoredSessions

_BLOCKING_READ_S = 5.0
_TAIL_READ_S = (
    1.0  # longer than the tail waits for news, and short enough to notice a connection that is dead
)
_LAG_MOST = 1_000  # events that a reader may be behind and the service still be called ready


def now_ms() -> int:
    """The present time in ms since 1970."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """A name for an event or a request."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Parts:
    """What the processes are made of, on one store. Nothing connects before it is used."""

    settings: Settings
    store_url: str

    @cached_property
    def store(self) -> Redis:
        """A client whose answers come soon enough for a request to be refused within 2 s, or not at all."""
        return connect(self.store_url, allow_unsafe=self.settings.allow_unsafe_store)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, to append and to read."""
        return Ledger(self.store, self.settings.ack_replicas)

    @cached_property
    def waiting_store(self) -> Redis:
        """A client for reads that wait for what comes."""
        unsafe = self.settings.allow_unsafe_store
        return connect(self.store_url, allow_unsafe=unsafe, timeout=_BLOCKING_READ_S)

    @cached_property
    def tailed_ledger(self) -> Ledger:
        """The ledger, to be tailed."""
        return Ledger(self.waiting_store)

    @cached_property
    def views(self) -> Views:
        """The read models of keys."""
        return Views(self.store)

    @cached_property
    def keys(self) -> Keys:
        """Commands on keys, and their views."""
        commands = KeyCommands(self.ledger, self.settings.key_prefix, secrets.randbelow, new_id, now_ms)
        return Keys(commands, self.views)

    @cached_property
    def memory(self) -> Memory:
        """What this process remembers of the keys that it was asked about."""
        return Memory(self.settings.verifier_keys)

    @cached_property
    def tail(self) -> Tail:
        """What keeps that current."""
        unsafe = self.settings.allow_unsafe_store
        store = connect(self.store_url, allow_unsafe=unsafe, timeout=_TAIL_READ_S)
        return Tail(Ledger(store), self.memory)

    @cached_property
    def usage(self) -> Usage:
        """How often and when keys were used."""
        return Usage(self.store)

    @cached_property
    def verifier(self) -> Verifier:
        """What gives the verdict on a key."""
        return Verifier(self.ledger, self.memory, self.tail, now_ms, self.usage.note)

    @cached_property
    def authenticator(self) -> KeyAuthenticator:
        """What tells who presents a key."""
        return KeyAuthenticator(self.verifier)

    @cached_property
    def verdicts(self) -> VerdictCalls:
        """The calls that other services make on every request."""
        return VerdictCalls(self.verifier, self.authenticator)

    @cached_property
    def limits(self) -> Limits:
        """How often each caller of this process may call."""
        return Limits(self.settings.rate_limit)

    @cached_property
    def accounts(self) -> Accounts:
        """The people."""
        return Accounts(self.ledger, Passwords(), new_id)

    @cached_property
    def audit_log(self) -> AuditLog:
        """The audit log."""
        if self.settings.audit_database_url:
            return AuditLog(self.settings.audit_database_url)
        make_data_directory(self.settings.data_dir)
        return AuditLog(f"sqlite:///{self.settings.data_dir / 'audit.db'}")

    @cached_property
    def projector(self) -> Projector:
        """What builds the views."""
        return Projector(self.tailed_ledger, self.views)

    @cached_property
    def relay(self) -> Relay:
        """What tells the audit worker of new events."""
        return Relay(self.tailed_ledger, self.audit_log, Requests(self.store))


def secret_key(settings: Settings) -> str:
    """What the cookies and forms are signed with: set, or made once and kept in the data directory."""
    if settings.secret_key:
        return settings.secret_key
    path = settings.data_dir / "secret_key"
    # Made whole under another name, then linked: of several processes one wins, and all read the same.
    draft = path.with_name(f"secret_key.{os.getpid()}")
    if not path.exists():
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()


def create_web() -> Flask:
    """The whole web application, from the environment: what each web process begins with."""
    parts = _parts_of_environment()
    app, api = _base(parts, home="keys.list_keys")
    create = CreateCall(parts.keys.commands, parts.authenticator, parts.limits)
    register_keys(app, api, parts.keys, parts.verdicts, create, parts.usage)
    register_accounts(app, parts.accounts)
    register_audit(app, api, parts.audit_log, parts.ledger)
    return app


def create_audit_web() -> Flask:
    """The audit pages and calls alone."""
    parts = _parts_of_environment()
    app, api = _base(parts, home="audit.entries_page")
    register_accounts(app, parts.accounts)
    register_audit(app, api, parts.audit_log, parts.ledger)
    return app


def _parts_of_environment() -> Parts:
    configure_logs()
    settings = Settings.from_environment()
    if settings.redis_url is None:
        raise RuntimeError("a web process is told its store by the process that starts it")
    return Parts(settings, settings.redis_url)


def _base(parts: Parts, home: str) -> tuple[Flask, JsonApi]:
    access = Access(parts.authenticator, parts.accounts.principal_of)
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
    """Follows the ledger and flushes the uses for as long as the process lives, and once more at its end.

    A web worker is a process of multiprocessing, which ends without `atexit`.
    """
    stop = Stop()
    for run in (parts.tail.run, parts.usage.run):
        Thread(target=run, args=(stop,), daemon=True).start()

    def end() -> None:
        stop.set()
        with suppress(RedisError, StoreError):
            parts.usage.flush()

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
