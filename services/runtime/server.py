"""Serves a web application with granian: one process group, each worker built by a factory."""

import os
import resource
import secrets
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from services.runtime.addresses import free_address
from shared.process.telemetry import configure_logs
from shared.settings import SECRET_LENGTH, Settings
from shared.store.connections import DataDirectoryError, connect, ensure_usable
from shared.store.embedded import ensure_made, open_store
from shared.web.server.connections import MAX_CONNECTIONS

if TYPE_CHECKING:
    from shared.web.server.draining import Draining

_APPLICATIONS = "services.runtime.web"
_IDLE_S = 30  # for which a connection may send no request, or not the whole of its headers
_HEADERS_BYTES = 64 * 1024
_DESCRIPTORS = 8192  # that a worker may have open, where the system lets it; connections need most of them
_STOP_S = 8


def serve_pages(factory: str) -> None:
    """Serves what a factory of `services.runtime.web` makes, until it is told to stop.

    The workers are told the store and the secret by their environment. What they are made of is imported
    here, so that they share it.
    Raises AddressError, SettingsError, StoreError.
    """
    configure_logs()
    settings = Settings.from_environment()
    address = free_address(settings.host, settings.port)
    ensure_made(settings)
    with open_store(settings) as store_url:
        ensure_usable(connect(store_url, allow_unsafe=settings.allow_unsafe_store))
        _tell_workers(REDIS_URL=store_url, SECRET_KEY=_secret_key(settings))
        with TemporaryDirectory(prefix="keyledger-counted-") as counted:
            # Where prometheus-client adds up what all workers count, if it is told before it is imported.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = counted
            import_module(_APPLICATIONS)
            serve_application(f"{_APPLICATIONS}:{factory}", address, settings.port, settings.workers)


def serve_application(factory: str, host: str, port: int, workers: int = 2) -> None:
    """Runs what a factory makes, `module:function`, until SIGTERM or SIGINT.

    A connection has one request at a time and each request a thread, which waits for the body as long as
    `shared.web.server.connections` allows. `shared.web.server.slots` limits how many are handled at once.
    """
    _raise_descriptor_limit()
    Granian(
        factory,
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=workers,
        blocking_threads=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
        # Of HTTP/2, granian keeps a thread spinning for each upload that ends early.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=_IDLE_S * 1000, max_buffer_size=_HEADERS_BYTES),
        websockets=False,
        log_level=LogLevels.error,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        workers_kill_timeout=_STOP_S,
    ).serve(target_loader=_made_by)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _made_by(factory: str) -> "Draining":
    # Imported by workers, which have it anyway; whoever only asks for the address needs nothing of the web.
    from shared.web.server.draining import Draining

    module, _, function = factory.partition(":")
    return Draining(getattr(import_module(module), function))


def _tell_workers(**settings: str) -> None:
    """By their environment. One that is started later has the same, whatever a file says by then."""
    for name, value in settings.items():
        os.environ[f"KEYLEDGER_{name}"] = value
        os.environ.pop(f"KEYLEDGER_{name}_FILE", None)


def _secret_key(settings: Settings) -> str:
    """What the cookies and forms are signed with: set, or made once and kept in the data directory."""
    if settings.secret_key:
        return settings.secret_key
    path = settings.data_dir / "secret_key"
    try:
        secret = _kept_secret(path)
    except OSError as error:
        raise DataDirectoryError(
            f"{path} cannot be used ({error.strerror}): let this user read it, or set KEYLEDGER_SECRET_KEY."
        ) from error
    if len(secret) < SECRET_LENGTH:
        raise DataDirectoryError(
            f"{path} has fewer than {SECRET_LENGTH} characters: remove it, so that another is made."
        )
    return secret


def _kept_secret(path: Path) -> str:
    # Made whole under another name, then linked: of several processes one wins, and all read the same.
    draft = path.with_name(f"secret_key.{os.getpid()}")
    if not path.exists():
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()
