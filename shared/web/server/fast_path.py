"""A way past Flask for the few calls that a platform makes on every request of its own.

Flask with its hooks takes several times as long as such a call itself. Only good answers are given here:
what goes wrong is told by Flask, so that errors have one mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from shared.web.server.environ import FAILURE, request_id
from shared.web.server.headers import security_headers
from shared.web.server.request_metrics import ROUTE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Headers: TypeAlias = list[tuple[str, str]]


class Answer(NamedTuple):
    """What a call answers."""

    headers: Headers
    body: bytes
    status: str = "200 OK"


# None leaves the request to Flask, with its body as it came.
Call: TypeAlias = "Callable[[WSGIEnvironment], Answer | None]"


class FastPath:
    """Answers the calls of some paths itself, and hands all else to the application behind it."""

    def __init__(self, behind: WSGIApplication, calls: Mapping[str, Call]) -> None:
        self._behind = behind
        self._calls = calls

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        call = self._calls.get(path)
        if call is None or FAILURE in environ:
            return self._behind(environ, start_response)
        environ[ROUTE] = path
        try:
            answer = call(environ)
        except Exception as error:  # noqa: BLE001  # whatever it is, Flask's mapping tells it
            environ[FAILURE] = error
            answer = None
        if answer is None:
            return self._behind(environ, start_response)
        headers = [*answer.headers, ("X-Request-Id", request_id(environ)), *security_headers(environ)]
        start_response(answer.status, headers)
        return [answer.body]
