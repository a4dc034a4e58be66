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

from services.accounts.app import register as register_accounts
from services.accounts.incidents import WAITING
from services.audit.app import register as register_audit
from services.composition import Parts
from services.doctor.examination import Concern
from services.health import Watch
from services.keys.app import register as register_keys
from services.keys.create_call import CreateCall
from services.keys.verify_calls import FORWARD_AUTH
from services.metrics import Figures, count_command, count_verdict
from shared.commands import log_in_batches, log_waiting, observe
from shared.connections import StoreError
from shared.settings import Settings
from shared.telemetry import configure_logs
from shared.web.access import Access
from shared.web.app import JsonApi, create_app, limit_concurrency, surround
from shared.web.connections import MAX_PER_PEER, ConnectionGuard
from shared.web.health import attach_health
from shared.web.session import StoredSessions

_SWITCH_S = 0.0005  # for which a thread that computes keeps others waiting; a verdict takes less
_LOOK_EVERY_S = 1.0


def create_web() -> Flask:
    """The whole web application, from the environment: what each web process begins with."""
    parts = _parts_of_environment()
    app, api = _base(parts, home="keys.list_keys", ready=Concern.WEB)
    create = CreateCall(parts.keys.commands, parts.authenticator, parts.limits)
    verdicts = replace(parts.verdicts, counted=count_verdict)
    register_keys(app, api, parts.keys, verdicts, create, parts.usage)
    register_accounts(app, parts.accounts, parts.sign_in, parts.directory)
    register_audit(app, api, parts.standing, parts.inquiries, parts.exports)
    _surround(app, parts, unread={FORWARD_AUTH})
    return app


def create_audit_web() -> Flask:
    """The audit pages and calls alone."""
    parts = _parts_of_environment()
    app, api = _base(parts, home="audit.entries_page", ready=Concern.AUDIT_WEB)
    register_accounts(app, parts.accounts, parts.sign_in, parts.directory)
    register_audit(app, api, parts.standing, parts.inquiries, parts.exports)
    _surround(app, parts)
    return app


def _parts_of_environment() -> Parts:
    configure_logs()
    settings = Settings.from_environment()
    if settings.redis_url is None:
        raise RuntimeError("a web process is told its store by the process that starts it")
    return Parts(settings, settings.redis_url)


def _base(parts: Parts, home: str, ready: Concern) -> tuple[Flask, JsonApi]:
    access = Access(parts.authenticator, parts.accounts.principal_of, parts.incidents.access_denied)
    secret_key = parts.settings.secret_key or ""
    app, api = create_app(
        secret_key=secret_key,
        sessions=StoredSessions(parts.store, secret_key),
        access=access,
        home=home,
        limits=parts.limits,
    )
    limit_concurrency(app, parts.settings.threads)
    sys.setswitchinterval(_SWITCH_S)
    readiness = Watch(parts, ready, _LOOK_EVERY_S)
    status = Watch(parts, Concern.STATUS, _LOOK_EVERY_S)
    figures = Figures(parts, readiness, status)
    _run_beside(parts, readiness.run, status.run, figures.run)
    observe(count_command)
    attach_health(app, readiness.report, status.report, figures)
    return app, api


def _surround(app: Flask, parts: Parts, unread: Collection[str] = ()) -> None:
    proxies = parts.settings.trusted_proxies
    guard = ConnectionGuard(None if proxies else MAX_PER_PEER)
    Thread(target=guard.run, args=(Stop(),), daemon=True).start()
    surround(app, proxies, guard, unread)


def _run_beside(parts: Parts, *watches: Callable[[Stop], None]) -> None:
    """Follows the ledger, flushes the uses, tells of incidents and makes the checks, to the process's end.

    Uses, incidents and lines of the log are brought away once more at its end: a web worker is a process of
    multiprocessing, which ends without `atexit`.
    """
    stop = Stop()
    for run in (parts.tail.run, parts.usage.run, parts.incidents.run, log_in_batches, *watches):
        Thread(target=run, args=(stop,), daemon=True).start()

    def end() -> None:
        stop.set()
        log_waiting()
        with suppress(RedisError, StoreError):
            parts.usage.flush()
        with suppress(*WAITING):
            parts.incidents.tell()

    Finalize(None, end, exitpriority=0)
