"""Counts responses and measures their time by method, route and status, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import Histogram

from shared.service.metrics import Counted
from shared.web.server.context import ROUTE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_NO_ROUTE = "none"  # for any other URL: strangers must not be able to add labels
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

REQUESTS = Counted(
    "keyledger_http_request_duration_seconds",
    "histogram",
    "Time from receiving a request to starting its response.",
    ("method", "route", "status"),
)


class RequestMetrics:
    """Counts each response of an application."""

    def __init__(self, behind: WSGIApplication) -> None:
        self._behind = behind
        self._seconds = REQUESTS.histogram(_BUCKETS)
        self._known: dict[tuple[str, str, str], Histogram] = {}  # finding a child takes longer than counting

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began = time.perf_counter()

        def answer(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            self._count(environ, status[:3], time.perf_counter() - began)
            return start_response(status, headers, *error)

        return self._behind(environ, answer)

    def _count(self, environ: WSGIEnvironment, status: str, seconds: float) -> None:
        method = environ["REQUEST_METHOD"]
        labels = method if method in _METHODS else "other", environ.get(ROUTE, _NO_ROUTE), status
        child = self._known.get(labels)
        if child is None:
            child = self._known[labels] = self._seconds.labels(*labels)
        child.observe(seconds)
