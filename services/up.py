"""What `keyledger up` does: every process of a Keyledger on one machine, and the first sign-in."""

import os
import socket
import sys
from contextlib import suppress

from services.accounts.credentials import new_password
from services.composition import Parts
from services.output import OutputError, echo, ensure_writable, tell_once
from services.parts import new_id
from services.supervisor import Process, supervise
from services.web import free_address
from shared.connections import ensure_usable
from shared.disk import shortage
from shared.embedded import EmbeddedServer
from shared.events import Request
from shared.identity import ADMIN, DEFAULT_WORKSPACE, Principal
from shared.ledger import BEGINNING
from shared.settings import Settings

_FIRST_OWNER = "owner@localhost"


def run_everything(settings: Settings) -> None:
    """Starts all, and keeps it running until SIGTERM or Ctrl-C.

    Raises AddressError, StoreError, AuditDatabaseError, SigningError,
    NotReadyError.
    """
    free_address(settings)
    if settings.redis_url:
        parts = Parts(settings, settings.redis_url)
        ensure_usable(parts.store)
        _supervise([], parts)
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
        _supervise([store], Parts(settings, server.url))


def _supervise(store: list[Process], parts: Parts) -> None:
    parts.audit_log.last()  # finds out now whether its database can be used
    if parts.settings.audit_key_file:
        _ = parts.signer.public_key  # and whether the key can: the worker would go on without signatures
    supervise([*store, *_programs(parts.settings)], when_ready=lambda: _welcome(parts))


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


def _welcome(parts: Parts) -> None:
    """Says where the dashboard is and, once, to the terminal only, how to sign in."""
    host = f"[{parts.settings.host}]" if ":" in parts.settings.host else parts.settings.host
    lines = [f"\n  Keyledger is at http://{host}:{parts.settings.port}"]
    if parts.ledger.head() == BEGINNING:
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
        parts.accounts.add(operator, _FIRST_OWNER, "owner", password, request)
        lost = f"Give {_FIRST_OWNER} a password with `keyledger account password {_FIRST_OWNER}`."
        tell_once("\n".join([*lines, f"\n  Sign in as {_FIRST_OWNER}   password {password}"]), lost)
        lines = ["  This is shown once. Keep it, or add accounts with `keyledger account add`."]
    with suppress(OSError, OutputError):  # Keyledger runs whether somebody reads this or not
        echo("\n".join([*lines, "  Ctrl-C stops everything.\n"]))
