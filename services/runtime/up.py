"""What `keyledger up` does: every process of a Keyledger on one machine, and the first sign-in."""

import os
import socket
import sys
from contextlib import suppress

from services.accounts.passwords import new_password
from services.runtime.components import Container
from services.runtime.output import OutputError, echo, ensure_writable, tell_once
from services.runtime.server import free_address
from services.runtime.supervisor import Process, supervise
from shared.components import new_id
from shared.eventstore.events import Request
from shared.eventstore.ledger import BEGINNING
from shared.identity import ADMIN, DEFAULT_WORKSPACE, Principal
from shared.settings import Settings
from shared.store.connections import ensure_usable
from shared.store.disk import shortage
from shared.store.embedded import EmbeddedServer

_FIRST_OWNER = "owner@localhost"


def run_everything(settings: Settings) -> None:
    """Starts all, and keeps it running until SIGTERM or Ctrl-C.

    Raises AddressError, StoreError, AuditDatabaseError, SigningError,
    NotReadyError.
    """
    free_address(settings)
    if settings.redis_url:
        components = Container(settings, settings.redis_url)
        ensure_usable(components.store)
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
        _supervise([store], Container(settings, server.url))


def _supervise(store: list[Process], components: Container) -> None:
    components.audit_log.last()  # finds out now whether its database can be used
    if components.settings.audit_key_file:
        _ = components.signer.public_key  # and whether the key can: the worker would go on without signatures
    supervise([*store, *_programs(components.settings)], when_ready=lambda: _welcome(components))


def _programs(settings: Settings) -> list[Process]:
    log_format = os.environ.get("KEYLEDGER_LOG_FORMAT", "").strip() or "text"
    environment = os.environ | {"KEYLEDGER_LOG_FORMAT": log_format}
    commands = {
        "projector": ["projector"],
        "relay": ["audit", "relay"],
        "worker": ["audit", "worker"],
        "web": ["web"],
    }
    return [
        Process(
            name=name,
            # -P: what lies in the current directory is not imported, be its name `services`.
            argv=[sys.executable, "-P", "-m", "services.cli", *command],
            env=environment,
            ready=(lambda: _listens(settings)) if name == "web" else None,
        )
        for name, command in commands.items()
    ]


def _listens(settings: Settings) -> bool:
    try:
        with socket.create_connection((settings.host, settings.port), timeout=1):
            return True
    except OSError:
        return False


def _welcome(components: Container) -> None:
    """Says where the dashboard is and, once, to the terminal only, how to sign in."""
    host = f"[{components.settings.host}]" if ":" in components.settings.host else components.settings.host
    lines = [f"\n  Keyledger is at http://{host}:{components.settings.port}"]
    if components.ledger.head() == BEGINNING:
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
        components.accounts.add(operator, _FIRST_OWNER, "owner", password, request)
        lost = f"Give {_FIRST_OWNER} a password with `keyledger account password {_FIRST_OWNER}`."
        tell_once("\n".join([*lines, f"\n  Sign in as {_FIRST_OWNER}   password {password}"]), lost)
        lines = ["  This is shown once. Keep it, or add accounts with `keyledger account add`."]
    with suppress(OSError, OutputError):  # Keyledger runs whether somebody reads this or not
        echo("\n".join([*lines, "  Ctrl-C stops everything.\n"]))
