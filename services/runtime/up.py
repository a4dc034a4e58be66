"""Runs every process on one machine, and creates the first account: `keyledger up`."""

import os
import socket
import sys
from contextlib import suppress

from services.accounts.components import AccountComponents
from services.accounts.passwords import new_password
from services.audit.components import AuditComponents
from services.runtime.addresses import free_address
from services.runtime.manifests import MANIFESTS
from services.runtime.output import OutputError, echo, ensure_writable, tell_once
from services.runtime.supervisor import Process, supervise
from shared.eventstore.envelope import Request
from shared.eventstore.ledger import BEGINNING
from shared.identity import ADMIN, DEFAULT_WORKSPACE, Principal
from shared.service.components import Container, SharedComponents, new_id
from shared.service.manifest import Program
from shared.settings import Settings
from shared.store.connections import ensure_usable
from shared.store.disk import shortage
from shared.store.embedded import EmbeddedServer

_FIRST_OWNER = "owner@localhost"


def run_everything(settings: Settings) -> None:
    """Starts all processes, and keeps them running until SIGTERM or Ctrl-C.

    Raises AddressError, StoreError, AuditDatabaseError, SigningError, NotReadyError.
    """
    free_address(settings.host, settings.port)
    for port in _metrics_ports(settings).values():
        free_address(settings.host, port, "KEYLEDGER_METRICS_PORT")
    if settings.redis_url:
        components = Container(SharedComponents(settings, settings.redis_url))
        ensure_usable(components.shared.store)
        _supervise([], components)
        return
    server = EmbeddedServer.in_directory(settings.data_dir)
    with server.held() as lock:
        store = Process(
            name="store",
            argv=server.command,
            pass_fds=(lock,),
            ready=server.is_ready,
            hindrance=lambda: shortage(settings.data_dir),
        )
        _supervise([store], Container(SharedComponents(settings, server.url)))


def _supervise(store: list[Process], components: Container) -> None:
    settings, audit = components.shared.settings, components.of(AuditComponents)
    audit.log.last()  # fails now if its database can't be used
    if settings.audit_key_file:
        _ = audit.signer.public_key  # and if the key can't: the worker would go on without signing
    supervise([*store, *_programs(settings)], when_ready=lambda: _welcome(components))


def _metrics_ports(settings: Settings) -> dict[str, int]:
    """Returns each program's port: the one that is set, and those that follow it."""
    names = [program.name for manifest in MANIFESTS for program in manifest.programs]
    first = settings.metrics_port
    return dict(zip(names, range(first, first + len(names)), strict=True)) if first else {}


def _programs(settings: Settings) -> list[Process]:
    log_format = os.environ.get("KEYLEDGER_LOG_FORMAT", "").strip() or "text"
    environment = os.environ | {"KEYLEDGER_LOG_FORMAT": log_format}
    ports = {name: {"KEYLEDGER_METRICS_PORT": str(port)} for name, port in _metrics_ports(settings).items()}
    programs = [program for manifest in MANIFESTS for program in manifest.programs]
    return [
        Process(
            name=name,
            # -P: a module in the current directory isn't imported, even one that is called `services`.
            argv=[sys.executable, "-P", "-m", "services.cli", *command],
            env=environment | ports.get(name, {}),
            ready=(lambda: _listens(settings)) if name == "web" else None,
        )
        for name, command in [*programs, Program("web", ["web"])]
    ]


def _listens(settings: Settings) -> bool:
    try:
        with socket.create_connection((settings.host, settings.port), timeout=1):
            return True
    except OSError:
        return False


def _welcome(components: Container) -> None:
    """Prints where the dashboard is and, once, to the terminal alone, how to sign in."""
    settings = components.shared.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = [f"\n  Keyledger is at http://{host}:{settings.port}"]
    if components.shared.ledger.head() == BEGINNING:
        ensure_writable()
        password = new_password()
        operator = Principal(
            kind="operator",
            id="up",
            label="first start",
            workspace=DEFAULT_WORKSPACE,
            scopes=frozenset({ADMIN}),
        )
        request = Request(id=new_id(), ip=None, user_agent=None)
        accounts = components.of(AccountComponents).accounts
        accounts.add(operator, _FIRST_OWNER, "owner", password, request)
        lost = f"Give {_FIRST_OWNER} a password with `keyledger account password {_FIRST_OWNER}`."
        tell_once("\n".join([*lines, f"\n  Sign in as {_FIRST_OWNER}   password {password}"]), lost)
        lines = ["  This is shown once. Keep it, or add accounts with `keyledger account add`."]
    with suppress(OSError, OutputError):  # Keyledger runs even if nobody reads this
        echo("\n".join([*lines, "  Ctrl-C stops everything.\n"]))
