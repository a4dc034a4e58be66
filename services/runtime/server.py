"""Serves a web application with granian; each worker builds its own by a factory."""

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
_IDLE_S = 30  # how long a connection may be idle or send incomplete headers
_HEADERS_BYTES = 64 * 1024
_DESCRIPTORS = 8192  # that a worker may have open, if the system allows it; connections need most of them
_STOP_S = 8


def serve_pages(factory: str) -> None:
    """Serves the application that a factory of `services.runtime.web` builds, until SIGTERM or SIGINT.

    The workers get the store and the secret from their environment. Their modules are imported here, so that
    they share the memory.
    Raises AddressError, SettingsError, StoreError.
    """
    configure_logs()
    settings = Settings.from_environment()
    address = free_address(settings.host, settings.port)
    ensure_made(settings)
    with open_store(settings) as store_url:
        ensure_usable(connect(store_url, allow_unsafe=settings.allow_unsafe_store))
        _set_environment(REDIS_URL=store_url, SECRET_KEY=_secret_key(settings))
        with TemporaryDirectory(prefix="keyledger-counted-") as counted:
            # Where prometheus-client adds up the counts of all workers. It must be set before the import.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = counted
            import_module(_APPLICATIONS)
            serve_application(f"{_APPLICATIONS}:{factory}", address, settings.port, settings.workers)


def serve_application(factory: str, host: str, port: int, workers: int = 2) -> None:
    """Runs the application of a factory, `module:function`, until SIGTERM or SIGINT.

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
        # With HTTP/2, granian leaves a thread spinning for each upload that ends early.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=_IDLE_S * 1000, max_buffer_size=_HEADERS_BYTES),
        websockets=False,
        log_level=LogLevels.error,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        workers_kill_timeout=_STOP_S,
    ).serve(target_loader=_load)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _load(factory: str) -> "Draining":
    # Imported late: only workers need it.
    from shared.web.server.draining import Draining

    module, _, function = factory.partition(":")
    return Draining(getattr(import_module(module), function))


def _set_environment(**settings: str) -> None:
    """Sets their environment. A worker that starts later gets the same, even if a file has changed."""
    for name, value in settings.items():
        os.environ[f"KEYLEDGER_{name}"] = value
        os.environ.pop(f"KEYLEDGER_{name}_FILE", None)


def _secret_key(settings: Settings) -> str:
    """Returns the key that signs cookies and forms: the setting, or one kept in the data directory."""
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
            f"{path} has fewer than {SECRET_LENGTH} characters: remove it, and another is created."
        )
    return secret


def _kept_secret(path: Path) -> str:
    # Written under another name, then linked: of several processes one wins, and all read the same.
    draft = path.with_name(f"secret_key.{os.getpid()}")
    if not path.exists():
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()
