"""One request, as the fast path and Flask both see it, and the headers that every response has."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from shared.eventstore.envelope import Request
from shared.identity import Authenticator, Principal, UnauthenticatedError
from shared.store.idempotency import Idempotency
from shared.text.ip_addresses import canonical_ip
from shared.text.key_detection import holds_key, without_keys

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_BODY_BYTES = 64 * 1024
# Keys of the WSGI environment, by which the steps of a request pass on what they found.
BODY = "keyledger.body"  # the request's body, if it has one
FAILURE = "keyledger.failure"  # what went wrong before Flask, for Flask to answer
CALLER = "keyledger.caller"  # the principal that authenticated by a bearer token
ROUTE = "keyledger.route"  # the route that matched the request
_ID = "keyledger.request_id"
_VALID_ID = re.compile(r"[0-9A-Za-z._-]{1,64}")
_USER_AGENT_LENGTH = 300
_USER_AGENT_READ = 2_000  # so that a key in it is still seen whole before it is cut

Headers: TypeAlias = Sequence[tuple[str, str]]

_OVER_HTTP: Headers = (
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
)
_OVER_TLS: Headers = (*_OVER_HTTP, ("Strict-Transport-Security", "max-age=31536000"))


class RequestContext(NamedTuple):
    """A view of the WSGI environment. What it works out once, such as the caller, it keeps there."""

    environ: WSGIEnvironment

    @property
    def id(self) -> str:
        """The X-Request-Id of the caller if it is valid, else a random ID; the same for the whole request."""
        known: str | None = self.environ.get(_ID)
        if known is None:
            given: str = self.environ.get("HTTP_X_REQUEST_ID", "")
            is_valid = given and _VALID_ID.fullmatch(given) and not holds_key(given)
            # An ID is no secret, so it needs no secure randomness.
            known = self.environ[_ID] = given if is_valid else f"{random.getrandbits(128):032x}"
        return known

    @property
    def is_api(self) -> bool:
        """Whether it is an API request, with a bearer token, and not a browser's."""
        path: str = self.environ["PATH_INFO"]
        return path.startswith("/v1/")

    @property
    def plain_json(self) -> bytes | None:
        """The body if it is declared as uncompressed JSON without parameters; it may still be invalid."""
        if self.environ.get("CONTENT_TYPE") != "application/json" or "HTTP_CONTENT_ENCODING" in self.environ:
            return None
        body: bytes | None = self.environ.get(BODY)
        return body

    @property
    def bearer_token(self) -> str:
        """Raises UnauthenticatedError if there is none."""
        authorization: str = self.environ.get("HTTP_AUTHORIZATION", "")
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("Send a Keyledger API key in the header Authorization: Bearer <key>.")
        return token

    def caller(self, authenticate: Authenticator) -> Principal:
        """Authenticates the bearer token, once per request. Raises UnauthenticatedError."""
        known: Principal | None = self.environ.get(CALLER)
        if known is None:
            known = self.environ[CALLER] = authenticate(self.bearer_token)
        return known

    @property
    def origin(self) -> Request:
        """What events record of the request: its ID, IP address and user agent."""
        ip = canonical_ip(self.environ.get("REMOTE_ADDR") or "")
        return Request(id=self.id, ip=ip, user_agent=_user_agent(self.environ.get("HTTP_USER_AGENT")))

    def idempotency(self, caller: Principal, key: str, body: bytes) -> Idempotency:
        """The caller's `key` for this request, with its method, path and body."""
        method, path = self.environ["REQUEST_METHOD"], self.environ["PATH_INFO"]
        asked = b"\n".join([method.encode(), path.encode(), body])
        return Idempotency.of(f"{caller.kind}:{caller.id}", key, asked)


def begin_request(environ: WSGIEnvironment, route: str | None) -> RequestContext:
    """Begins a request that matched a route, or none. The fast path and Flask both call it first."""
    if route is not None:
        environ[ROUTE] = route
    return RequestContext(environ)


def response_headers(context: RequestContext) -> list[tuple[str, str]]:
    """The headers of every response: the request ID and the security headers."""
    return [("X-Request-Id", context.id), *security_headers(context.environ)]


def security_headers(environ: WSGIEnvironment) -> Headers:
    """The security headers, with HSTS if the request came over TLS, as trusted proxies report it.

    The gateway's own responses have the same: deploy/nginx.conf. What granian refuses before it calls the
    application (400 and 414) has none.
    """
    return _OVER_TLS if environ.get("wsgi.url_scheme") == "https" else _OVER_HTTP


def _user_agent(given: str | None) -> str | None:
    """The name of the client, with everything but printable ASCII escaped."""
    if not given:  # granian gives one that isn't ASCII as empty
        return None if given is None else "(empty or not ASCII)"
    text = without_keys(given[:_USER_AGENT_READ])
    if not (text.isascii() and text.isprintable()):
        text = "".join(
            character if " " <= character <= "~" else character.encode("unicode_escape").decode()
            for character in text.replace("…", "...")  # which also stands for the rest of a key
        )
    return text[:_USER_AGENT_LENGTH]
