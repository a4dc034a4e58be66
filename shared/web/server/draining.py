"""How a web worker ends and loses no request.

Told to stop, granian hangs up on whoever is connected and was not answered yet. So a worker first lets nobody
else in, then answers all who are, and only then lets granian know.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from shared.web.server.listening import refuse_connections

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SIGNALS = {signal.SIGTERM, signal.SIGINT}
_LONGEST_S = 6.0
_QUIET_S = 0.2  # without a request, after which none can be on its way through granian
_STEP_S = 0.01


class Draining:
    """An application that takes the signal to end, and passes it on when no request is under way any more.

    To be made in a worker's main thread before there are others, for they must not take the signal either.
    """

    def __init__(self, make: Callable[[], WSGIApplication]) -> None:
        self._lock = Lock()
        self._under_way = 0
        self._last_answer = 0.0
        self._ends = False
        self._not_of_granian = signal.getsignal(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._behind = make()
        Thread(target=self._end_on_signal, daemon=True).start()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            self._under_way += 1
        try:
            answer = self._behind(environ, _hanging_up(start_response) if self._ends else start_response)
        except BaseException:
            self._answered()
            raise
        if isinstance(answer, list):
            self._answered()
            return answer
        return ClosingIterator(answer, self._answered)

    def _answered(self) -> None:
        with self._lock:
            self._under_way -= 1
            self._last_answer = time.monotonic()

    def _end_on_signal(self) -> None:
        signal.sigwait(_SIGNALS)
        deadline = time.monotonic() + _LONGEST_S
        _wait(lambda: signal.getsignal(signal.SIGTERM) is not self._not_of_granian, deadline)
        self._ends = True
        refuse_connections()
        self._last_answer = time.monotonic()
        _wait(self._is_quiet, deadline)
        stop_granian: Any = signal.getsignal(signal.SIGTERM)
        stop_granian(signal.SIGTERM, None)

    def _is_quiet(self) -> bool:
        return self._under_way == 0 and time.monotonic() - self._last_answer > _QUIET_S


def _wait(until: Callable[[], bool], deadline: float) -> None:
    while not until() and time.monotonic() < deadline:
        time.sleep(_STEP_S)


def _hanging_up(start_response: StartResponse) -> StartResponse:
    """Tells whoever would keep the connection that there is no other answer on it."""

    def answer(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*headers, ("Connection", "close")], *error)

    return answer
