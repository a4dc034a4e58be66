"""Limits how many requests a web process works on at once. Each connection has a thread; most are waiting."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from shared.web.server.context import FAILURE, RequestContext

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_MAX_WAIT_S = 1.5


class BusyError(Exception):
    """No slot became free in time."""

    retry_after = 2  # s

    def __init__(self) -> None:
        super().__init__("Keyledger is busy. Try again in a few seconds.")


class Slots:
    """Works on up to `count` requests at once; others wait for a slot for a limited time.

    Requests to `exempt` paths, and API requests that are already refused, need no slot. A streamed response
    frees its slot with its first chunk.
    """

    def __init__(self, behind: WSGIApplication, count: int, exempt: Collection[str] = ()) -> None:
        self._behind = behind
        self._exempt = exempt
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        refused = FAILURE in environ and RequestContext(environ).is_api  # which costs next to nothing
        if refused or environ["PATH_INFO"] in self._exempt:
            return self._behind(environ, start_response)
        try:
            self._free.get(timeout=_MAX_WAIT_S)
        except Empty:
            environ.setdefault(FAILURE, BusyError())
            return self._behind(environ, start_response)
        try:
            return self._behind(environ, start_response)
        finally:
            self._free.put(None)
