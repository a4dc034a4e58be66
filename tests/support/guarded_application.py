"""An application with connection guards whose limits are low enough for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Event, Thread
from typing import TYPE_CHECKING

from shared.web.server import connections
from shared.web.server.bodies import Bodies
from shared.web.server.connections import ConnectionGuard
from shared.web.server.context import BODY, FAILURE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

DEADLINE_S = 1.0
PER_PEER = 20
CROWDED = 50
_CHUNK = bytes(64 * 1024)

connections._UNSENT_MS = 1_000
_streaming: set[object] = set()


def create() -> WSGIApplication:
    """Creates an application with a short deadline for request bodies."""
    return _guarded(ConnectionGuard(None, DEADLINE_S))


def create_capped() -> WSGIApplication:
    """Creates an application with low limits for connections per peer and idle connections."""
    connections._CROWDED = CROWDED
    connections.MAX_PER_PEER = PER_PEER
    return _guarded(ConnectionGuard(PER_PEER))


def _guarded(guard: ConnectionGuard) -> WSGIApplication:
    Thread(target=guard.run, args=(Event(),), daemon=True).start()
    return Bodies(_application, guard, lambda _: None)


def _application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Returns the body or its error. `/stream` never ends; `/streaming` counts running streams."""
    failure = environ.get(FAILURE)
    start_response("200 OK", [("Content-Type", "text/plain")])
    match environ["PATH_INFO"]:
        case "/stream":
            return _endless()
        case "/streaming":
            return [str(len(_streaming)).encode()]
    return [type(failure).__name__.encode() if failure else environ.get(BODY, b"nothing")]


def _endless() -> Iterator[bytes]:
    here = object()
    _streaming.add(here)
    try:
        while True:
            yield _CHUNK
    finally:
        _streaming.remove(here)
