"""The web applications: what each web process begins with, put together from the parts of all services."""

import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from multiprocessing.util import Finalize
from threading import Event as Stop
from threading import Thread

from flask import Flask
from redis import RedisError

from services.accounts.security_events import WAITING
from services.accounts.web.register import register as register_accounts
from services.audit.web.register import register as register_audit
from services.doctor.examination import Concern
from services.keys.web.create_endpoint import CreateEndpoint
from services.keys.web.fast_path import FORWARD_AUTH
from services.keys.web.register import register as register_keys
from services.runtime.checks import CheckRunner
from services.runtime.components import Container
from services.runtime.metrics import Metrics, count_command, count_verdict
from shared.process.command_log import log_in_batches, log_waiting, observe
from shared.process.telemetry import configure_logs
from shared.settings import Settings
from shared.store.connections import StoreError
from shared.web.access import Access
from shared.web.app import JsonApi, create_app, limit_concurrency, surround
from shared.web.health import attach_health
from shared.web.server.connections import MAX_PER_PEER, ConnectionGuard
from shared.web.session import StoredSessions

_SWITCH_S = 0.0005  # for which a thread that computes keeps others waiting; a verdict takes less
_LOOK_EVERY_S = 1.0


def create_web() -> Flask:
    """The whole web application, from the environment: what each web process begins with."""
    components = _parts_of_environment()
    app, api = _base(components, home="keys.list_keys", ready=Concern.WEB)
    create = CreateEndpoint(components.keys.commands, components.authenticator, components.limits)
    verdicts = replace(components.verdicts, counted=count_verdict)
    register_keys(app, api, components.keys, verdicts, create, components.usage)
    register_accounts(app, components.accounts, components.sign_in, components.directory)
    register_audit(app, api, components.standing, components.inquiries, components.exports)
    _surround(app, components, unread={FORWARD_AUTH})
    return app


def create_audit_web() -> Flask:
    """The audit pages and calls alone."""
    components = _parts_of_environment()
    app, api = _base(components, home="audit.entries_page", ready=Concern.AUDIT_WEB)
    register_accounts(app, components.accounts, components.sign_in, components.directory)
    register_audit(app, api, components.standing, components.inquiries, components.exports)
    _surround(app, components)
    return app


def _parts_of_environment() -> Container:
    configure_logs()
    settings = Settings.from_environment()
    if settings.redis_url is None:
        raise RuntimeError("a web process is told its store by the process that starts it")
    return Container(settings, settings.redis_url)


def _base(components: Container, home: str, ready: Concern) -> tuple[Flask, JsonApi]:
    access = Access(
        components.authenticator, components.accounts.principal_of, components.incidents.access_denied
    )
    secret_key = components.settings.secret_key or ""
    app, api = create_app(
        secret_key=secret_key,
        sessions=StoredSessions(components.store, secret_key),
        access=access,
        home=home,
        limits=components.limits,
    )
    limit_concurrency(app, components.settings.threads)
    sys.setswitchinterval(_SWITCH_S)
    readiness = CheckRunner(components, ready, _LOOK_EVERY_S)
    status = CheckRunner(components, Concern.STATUS, _LOOK_EVERY_S)
    figures = Metrics(components, readiness, status)
    _run_beside(components, readiness.run, status.run, figures.run)
    observe(count_command)
    attach_health(app, readiness.report, status.report, figures)
    return app, api


def _surround(app: Flask, components: Container, unread: Collection[str] = ()) -> None:
    proxies = components.settings.trusted_proxies
    guard = ConnectionGuard(None if proxies else MAX_PER_PEER)
    Thread(target=guard.run, args=(Stop(),), daemon=True).start()
    surround(app, proxies, guard, unread)


def _run_beside(components: Container, *watches: Callable[[Stop], None]) -> None:
    """Follows the ledger, flushes the uses, tells of incidents and makes the checks, to the process's end.

    Uses, incidents and lines of the log are brought away once more at its end: a web worker is a process of
    multiprocessing, which ends without `atexit`.
    """
    stop = Stop()
    for run in (
        components.tail.run,
        components.usage.run,
        components.incidents.run,
        log_in_batches,
        *watches,
    ):
        Thread(target=run, args=(stop,), daemon=True).start()

    def end() -> None:
        stop.set()
        log_waiting()
        with suppress(RedisError, StoreError):
            components.usage.flush()
        with suppress(*WAITING):
            components.incidents.tell()

    Finalize(None, end, exitpriority=0)
