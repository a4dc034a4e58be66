"""The web applications: the factories that each web process begins with."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.util import Finalize
from threading import Event as Stop
from threading import Thread

from flask import Flask
from redis import RedisError

from services.accounts.components import AccountComponents
from services.accounts.manifest import MANIFEST as ACCOUNTS
from services.audit.manifest import MANIFEST as AUDIT
from services.doctor.examination import all_checks
from services.keys.components import KeyComponents
from services.runtime.checks import CheckRunner
from services.runtime.manifests import MANIFESTS
from services.runtime.metrics import WEB, Current, WebProcess, count_commands, sources
from shared.eventstore.ledger import NotReplicatedError, VersionConflictError
from shared.process.telemetry import configure_logs
from shared.service.checks import Concern
from shared.service.components import Container, SharedComponents
from shared.service.manifest import Background, Manifest
from shared.service.metrics import Polled
from shared.settings import Settings
from shared.store.connections import StoreError
from shared.web.access import Access
from shared.web.app import create_app, limit_concurrency, surround
from shared.web.health import attach_health
from shared.web.registration import Web
from shared.web.server.connections import MAX_PER_PEER, ConnectionGuard
from shared.web.server.limits import Limits
from shared.web.session import StoredSessions

_SWITCH_S = 0.0005  # how long a computing thread keeps others waiting; a verdict takes less
_LOOK_EVERY_S = 1.0


def create_web() -> Flask:
    """The whole web application, from the environment."""
    return build_web(_components(), MANIFESTS, home="keys.list_keys", ready=Concern.WEB)


def create_audit_web() -> Flask:
    """The audit pages and calls alone, with those of sign-in."""
    return build_web(_components(), (AUDIT, ACCOUNTS), home="audit.entries_page", ready=Concern.AUDIT_WEB)


def _components() -> Container:
    configure_logs()
    settings = Settings.from_environment()
    if settings.redis_url is None:
        raise RuntimeError("the process that starts a web process must set its store")
    return Container(SharedComponents(settings, settings.redis_url))


def build_web(components: Container, attached: Sequence[Manifest], home: str, ready: Concern) -> Flask:
    """Builds an application with the pages and calls of some services.

    `home` is the endpoint of the first page, and `ready` what `/readyz` checks.
    """
    shared, keys, accounts = components.shared, components.of(KeyComponents), components.of(AccountComponents)
    settings, secret_key = shared.settings, shared.settings.secret_key or ""
    limits = Limits(settings.rate_limit)
    app, api = create_app(
        secret_key=secret_key,
        sessions=StoredSessions(shared.store, secret_key),
        access=Access(
            keys.authenticator, accounts.accounts.principal_of, accounts.security_events.access_denied
        ),
        home=home,
        limits=limits,
    )
    limit_concurrency(app, settings.threads)
    sys.setswitchinterval(_SWITCH_S)
    checks = all_checks(MANIFESTS)
    readiness = CheckRunner(components, checks, ready, _LOOK_EVERY_S)
    status = CheckRunner(components, checks, Concern.STATUS, _LOOK_EVERY_S)
    polled = Polled(components, sources(MANIFESTS))
    shared.command_log.observers.append(count_commands())
    _run_in_background(
        [
            *(each for manifest in MANIFESTS for each in manifest.background(components)),
            Background(shared.command_log.write_in_batches, shared.command_log.flush),
            *(Background(watch.run) for watch in (readiness, status, polled)),
        ]
    )
    current = Current(WebProcess(settings, readiness.report, status.report), WEB)
    attach_health(app, readiness.report, status.report, [current, polled])
    web = Web(app, api, components, limits, keys.authenticator, keys.forensics)
    for manifest in attached:
        manifest.web(web)
    navigation = [item for manifest in attached for item in manifest.navigation]
    app.context_processor(lambda: {"navigation": navigation})
    guard = ConnectionGuard(None if settings.trusted_proxies else MAX_PER_PEER)
    Thread(target=guard.run, args=(Stop(),), daemon=True).start()
    surround(app, settings.trusted_proxies, guard, web.unread)
    return app


def _run_in_background(tasks: Sequence[Background]) -> None:
    """Runs each task in a thread until the process ends, and then what finishes it.

    A web worker is a process of multiprocessing, which ends without `atexit`.
    """
    stop = Stop()
    for task in tasks:
        Thread(target=task.run, args=(stop,), daemon=True).start()

    def end() -> None:
        stop.set()
        for task in tasks:
            if task.finish:
                with suppress(RedisError, StoreError, NotReplicatedError, VersionConflictError):
                    task.finish()

    Finalize(None, end, exitpriority=0)
