"""Reads the body of each request before anything works on it.

granian reads a body while the application asks for it, on the request's thread and without a timeout. So a
body is only read here if it is wanted and small enough, and if the sender of an API request is authenticated;
and the read ends at a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, RequestTimeout

from shared.web.server.connections import ConnectionGuard
from shared.web.server.context import BODY, CALLER, FAILURE, MAX_BODY_BYTES, RequestContext

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_REAUTHENTICATE_S = 0.1  # a body that takes longer has its sender authenticated again
_STALLED_S = 2.0  # after this, a body that ends early was cut off by the guard or by its client
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Bodies:
    """Passes on each request with its complete body, or with the reason why it was not read.

    `admit` raises for an API request whose sender may not send a body. The body of `unread` paths is never
    wanted.
    """

    def __init__(
        self,
        behind: WSGIApplication,
        guard: ConnectionGuard,
        admit: Callable[[RequestContext], object],
        unread: Collection[str] = (),
    ) -> None:
        self._behind = behind
        self._guard = guard
        self._admit = admit
        self._unread = unread

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH", "0")
        if length == "0" and "HTTP_TRANSFER_ENCODING" not in environ:
            return self._behind(environ, start_response)
        body = None
        try:
            if environ["REQUEST_METHOD"].upper() in _WITH_BODY and environ["PATH_INFO"] not in self._unread:
                body = self._read(environ, length)
        except Exception as error:  # noqa: BLE001  # Flask's mapping answers every error
            environ[FAILURE] = error
        environ[BODY] = body or b""
        environ["wsgi.input"] = BytesIO(environ[BODY])
        environ["CONTENT_LENGTH"] = str(len(environ[BODY]))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        # An unread body is still on its way, so no other request can follow on this connection.
        return self._behind(environ, start_response if body is not None else closing(start_response))

    def _read(self, environ: WSGIEnvironment, length: str) -> bytes:
        declared = None if "HTTP_TRANSFER_ENCODING" in environ else int(length)
        if declared is not None and declared > MAX_BODY_BYTES:
            raise RequestEntityTooLarge
        context = RequestContext(environ)
        if context.is_api:
            self._admit(context)
        read = self._guard.begin_read(environ["REMOTE_ADDR"])
        try:
            body: bytes = environ["wsgi.input"].read(MAX_BODY_BYTES + 1 if declared is None else declared)
        finally:
            took = self._guard.end_read(read)
        if took > _REAUTHENTICATE_S:
            environ.pop(CALLER, None)
        if len(body) > MAX_BODY_BYTES:
            raise RequestEntityTooLarge
        if len(body) != declared and took >= min(_STALLED_S, self._guard.body_deadline_s):
            raise RequestTimeout
        if declared is not None and len(body) < declared:
            raise BadRequest("The body ended before its Content-Length. Send the request again.")
        return body


def closing(start_response: StartResponse) -> StartResponse:
    """Adds the header that closes the connection after this response."""

    def answer(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*headers, ("Connection", "close")], *error)

    return answer
