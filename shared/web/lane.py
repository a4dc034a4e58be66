"""A way past Flask for the few calls that a platform makes on every request of its own.

Flask with its hooks takes several times as long as such a call itself. Only answers 200 are given here: what
goes wrong is told by Flask, so that errors have one mapping.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REQUEST_ID = re.compile(r"[0-9A-Za-z._-]{1,64}")
FAILURE = "keyledger.failure"  # where the environment has what a call raised, for its view to raise again

Headers: TypeAlias = list[tuple[str, str]]
# Gives the headers and the body of an answer 200; None leaves the request to Flask, with its body unread.
Call: TypeAlias = "Callable[[WSGIEnvironment], tuple[Headers, bytes] | None]"


class Lane:
    """Answers the calls of some paths itself, and hands all else to the application behind it."""

    def __init__(self, behind: WSGIApplication, calls: Mapping[str, Call], headers: Headers) -> None:
        self._behind = behind
        self._calls = calls
        self._headers = headers

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        call = self._calls.get(environ["PATH_INFO"])
        if call is None:
            return self._behind(environ, start_response)
        try:
            answer = call(environ)
        except Exception as error:  # noqa: BLE001  # whatever it is, the view raises it to Flask's mapping
            environ[FAILURE] = error
            answer = None
        if answer is None:
            return self._behind(environ, start_response)
        headers, body = answer
        start_response("200 OK", [*headers, ("X-Request-Id", _request_id(environ)), *self._headers])
        return [body]


def _request_id(environ: WSGIEnvironment) -> str:
    given: str = environ.get("HTTP_X_REQUEST_ID", "")
    if given and REQUEST_ID.fullmatch(given):
        return given
    return f"{random.getrandbits(128):032x}"  # a name, and no secret
