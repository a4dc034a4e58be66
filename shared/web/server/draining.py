"""Stops a web worker without losing a request.

On a signal, granian closes the connections of requests that it hasn't answered yet. So a worker first refuses
new connections, then answers the requests in progress, and only then passes the signal on to granian.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from shared.web.server.bodies import closing
from shared.web.server.listening import refuse_connections

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SIGNALS = {signal.SIGTERM, signal.SIGINT}
_LONGEST_S = 6.0
_QUIET_S = 0.2  # without a request: after this, none can still be on its way through granian
_STEP_S = 0.01


class Draining:
    """Catches the signal to stop, and passes it on once no request is in progress.

    Create it in a worker's main thread before any other thread, since those must not receive the signal.
    """

    def __init__(self, make: Callable[[], WSGIApplication]) -> None:
        self._lock = Lock()
        self._in_progress = 0
        self._last_answer = 0.0
        self._stopping = False
        self._before_granian = signal.getsignal(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._behind = make()
        Thread(target=self._stop_on_signal, daemon=True).start()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            self._in_progress += 1
        try:
            answer = self._behind(environ, closing(start_response) if self._stopping else start_response)
        except BaseException:
            self._answered()
            raise
        if isinstance(answer, list):
            self._answered()
            return answer
        return ClosingIterator(answer, self._answered)

    def _answered(self) -> None:
        with self._lock:
            self._in_progress -= 1
            self._last_answer = time.monotonic()

    def _stop_on_signal(self) -> None:
        signal.sigwait(_SIGNALS)
        deadline = time.monotonic() + _LONGEST_S
        _wait(lambda: signal.getsignal(signal.SIGTERM) is not self._before_granian, deadline)
        self._stopping = True
        refuse_connections()
        self._last_answer = time.monotonic()
        _wait(self._is_quiet, deadline)
        stop_granian: Any = signal.getsignal(signal.SIGTERM)
        stop_granian(signal.SIGTERM, None)

    def _is_quiet(self) -> bool:
        return self._in_progress == 0 and time.monotonic() - self._last_answer > _QUIET_S


def _wait(until: Callable[[], bool], deadline: float) -> None:
    while not until() and time.monotonic() < deadline:
        time.sleep(_STEP_S)
