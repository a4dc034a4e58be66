"""What a request says of itself, read from WSGI's environment: before Flask, and behind it just so."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

from shared.eventstore.events import Request
from shared.eventstore.ledger import Idempotency
from shared.identity import Authenticator, Principal, UnauthenticatedError
from shared.text.ip_addresses import canonical_ip
from shared.text.key_detection import holds_key, without_keys

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_BODY_BYTES = 64 * 1024
BODY = "keyledger.body"  # where the environment has the request's body, if it has one
FAILURE = "keyledger.failure"  # and what went wrong before Flask, for Flask to answer
CALLER = "keyledger.caller"  # and who authenticated by a bearer token
_REQUEST_ID = re.compile(r"[0-9A-Za-z._-]{1,64}")
_ID_KEPT = "keyledger.request_id"
_USER_AGENT_LENGTH = 300
_USER_AGENT_READ = 2_000  # so that a key in it is still seen whole before it is cut


def request_id(environ: WSGIEnvironment) -> str:
    """The caller's name for the request, if it is a good one, or else one of ours; always the same."""
    known: str | None = environ.get(_ID_KEPT)
    if known is None:
        given: str = environ.get("HTTP_X_REQUEST_ID", "")
        # Random, for it is a name and no secret.
        is_good = _REQUEST_ID.fullmatch(given) and not holds_key(given)
        known = given if is_good else f"{random.getrandbits(128):032x}"
        environ[_ID_KEPT] = known
    return known


def bearer_token(environ: WSGIEnvironment) -> str:
    """What the caller shows. Raises UnauthenticatedError."""
    authorization: str = environ.get("HTTP_AUTHORIZATION", "")
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError("Send a Keyledger API key in the header Authorization: Bearer <key>.")
    return token


def caller(environ: WSGIEnvironment, authenticate: Authenticator) -> Principal:
    """Whose bearer token the request has; authenticated once. Raises UnauthenticatedError."""
    known: Principal | None = environ.get(CALLER)
    if known is None:
        known = environ[CALLER] = authenticate(bearer_token(environ))
    return known


def is_call(environ: WSGIEnvironment) -> bool:
    """Whether a program asks, with a bearer token, and not a person's browser."""
    path: str = environ["PATH_INFO"]
    return path.startswith("/v1/")


def plain_json(environ: WSGIEnvironment) -> bytes | None:
    """The body, if it says that it is JSON in the plainest way, which need not be true."""
    if environ.get("CONTENT_TYPE") != "application/json" or "HTTP_CONTENT_ENCODING" in environ:
        return None
    body: bytes | None = environ.get(BODY)
    return body


def origin(environ: WSGIEnvironment) -> Request:
    """What the events tell of the request."""
    ip = canonical_ip(environ.get("REMOTE_ADDR") or "")
    return Request(id=request_id(environ), ip=ip, user_agent=_user_agent(environ))


def _user_agent(environ: WSGIEnvironment) -> str | None:
    """What the client calls itself, with everything but printable ASCII escaped."""
    given: str | None = environ.get("HTTP_USER_AGENT")
    if not given:  # granian gives one that isn't ASCII as empty
        return None if given is None else "(empty or not ASCII)"
    text = without_keys(given[:_USER_AGENT_READ])
    if not (text.isascii() and text.isprintable()):
        text = "".join(
            character if " " <= character <= "~" else character.encode("unicode_escape").decode()
            for character in text.replace("…", "...")  # which also stands for the rest of a key
        )
    return text[:_USER_AGENT_LENGTH]


def idempotency(environ: WSGIEnvironment, caller: Principal, key: str, body: bytes) -> Idempotency:
    """The caller's `key` for this request, with its method, path and body."""
    asked = b"\n".join([environ["REQUEST_METHOD"].encode(), environ["PATH_INFO"].encode(), body])
    return Idempotency.of(f"{caller.kind}:{caller.id}", key, asked)
