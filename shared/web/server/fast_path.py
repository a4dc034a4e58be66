"""Answers the few API requests that a platform makes for each of its own requests, without Flask.

Flask with its hooks takes several times as long as such a request itself. Only successful responses are made
here: Flask answers errors, so that they have one mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from shared.web.server.context import FAILURE, Headers, RequestContext, begin_request, response_headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Answer(NamedTuple):
    """A successful response; the headers that every response has are added."""

    headers: Headers
    body: bytes
    status: str = "200 OK"


# None leaves the request to Flask, with its body as it came.
WsgiEndpoint: TypeAlias = Callable[[RequestContext], Answer | None]


class FastPath:
    """Answers requests to the paths of some endpoints; the application behind it answers all others."""

    def __init__(self, behind: WSGIApplication, endpoints: Mapping[str, WsgiEndpoint]) -> None:
        self._behind = behind
        self._endpoints = endpoints

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        endpoint = self._endpoints.get(path)
        if endpoint is None or FAILURE in environ:
            return self._behind(environ, start_response)
        context = begin_request(environ, path)
        try:
            answer = endpoint(context)
        except Exception as error:  # noqa: BLE001  # Flask's mapping answers every error
            environ[FAILURE] = error
            answer = None
        if answer is None:
            return self._behind(environ, start_response)
        start_response(answer.status, [*answer.headers, *response_headers(context)])
        return [answer.body]
