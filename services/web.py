"""Serves a web application with granian: one process group, each worker built by a factory."""

import os
import socket

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from shared.settings import Settings

_WORKERS = 2
_THREADS = 16  # requests that a worker has under way at once; more than that wait their turn
_CONNECTIONS = 512  # that a worker keeps open, most of them idle: browsers and clients' pools hold several
_STOP_S = 8


class AddressError(Exception):
    """The address cannot be listened on; the message says what to do."""


def refuse_taken_address(settings: Settings) -> None:
    """Finds out before anything is started. Raises AddressError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AddressError(
            f"Cannot listen on {settings.host} port {settings.port} ({reason}): "
            "stop what uses it, or set KEYLEDGER_HOST and KEYLEDGER_PORT to another address."
        ) from error


def serve(settings: Settings, store_url: str, secret_key: str, factory: str) -> None:
    """Runs until SIGTERM or SIGINT. The workers are told the store and the secret by their environment."""
    os.environ["KEYLEDGER_REDIS_URL"] = store_url
    os.environ["KEYLEDGER_SECRET_KEY"] = secret_key
    serve_application(f"services.web_applications:{factory}", settings.host, settings.port)


def serve_application(factory: str, host: str, port: int) -> None:
    """Runs what a factory makes, `module:function`, until SIGTERM or SIGINT."""
    Granian(
        factory,
        factory=True,
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=_WORKERS,
        blocking_threads=_THREADS,
        backpressure=_CONNECTIONS,
        websockets=False,
        log_level=LogLevels.error,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        workers_kill_timeout=_STOP_S,
    ).serve()
