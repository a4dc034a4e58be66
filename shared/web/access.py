"""Who calls: people by their session, services by a bearer token. Every view is behind one of the two."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from flask import Flask, current_app, g, redirect, request, session, url_for
from werkzeug.wrappers import Response

from shared.events import Request
from shared.identity import Authenticator, Principal, UnauthenticatedError, authorize
from shared.ledger import Idempotency
from shared.web.limits import Limits
from shared.web.openapi import documented, needs_scope

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")

_USER_AGENT_LENGTH = 300


@dataclass(frozen=True)
class Access:
    """How the services lend each other what tells who is calling."""

    authenticate: Authenticator
    account: Callable[[str], Principal | None]  # the present state of an account, by its subject


def attach(app: Flask, service: object) -> None:
    """Hands an app what its views work with; they get it back by its class."""
    app.extensions[f"keyledger.{type(service).__name__}"] = service


def attached(kind: type[_S]) -> _S:
    """What was attached to the app of this request."""
    service: _S = current_app.extensions[f"keyledger.{kind.__name__}"]
    return service


def signed_in(
    scope: str,
) -> Callable[[Callable[Concatenate[Principal, _P], _R]], Callable[_P, _R | Response]]:
    """A page for people who hold the scope; it gets the principal first. Others are sent to sign in."""

    def decorate(view: Callable[Concatenate[Principal, _P], _R]) -> Callable[_P, _R | Response]:
        @wraps(view)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R | Response:
            principal = _session_principal()
            if principal is None:
                target = request.full_path.rstrip("?") if request.method == "GET" else None
                return redirect(url_for("accounts.sign_in", next=target), 303)
            g.principal = principal
            authorize(principal, scope)
            return view(principal, *args, **kwargs)

        return guarded

    return decorate


def bearer(
    scope: str, *, limited: bool = True
) -> Callable[[Callable[Concatenate[Principal, _P], _R]], Callable[_P, _R]]:
    """A call for bearers of a key that holds the scope; it gets the principal first.

    They may call so often as the limit allows, if it is `limited`.
    """

    def decorate(view: Callable[Concatenate[Principal, _P], _R]) -> Callable[_P, _R]:
        @wraps(view)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            principal = attached(Access).authenticate(_bearer_token())
            if limited:
                attached(Limits).count(principal)
            authorize(principal, scope)
            return view(principal, *args, **kwargs)

        documented(guarded, needs_scope(scope, limited=limited))
        return guarded

    return decorate


def origin() -> Request:
    """What the events tell of this request."""
    user_agent = request.user_agent.string[:_USER_AGENT_LENGTH] or None
    return Request(id=g.request_id, ip=request.remote_addr, user_agent=user_agent)


def idempotency(principal: Principal, key: str | None) -> Idempotency | None:
    """The caller's `Idempotency-Key`, if it sent one, with the request's method, path and body."""
    return idempotency_of(principal, key, request.get_data()) if key else None


def idempotency_of(principal: Principal, key: str, body: bytes) -> Idempotency:
    """The same, of a key and a body from elsewhere: the forms carry theirs in a field."""
    asked = b"\n".join([request.method.encode(), request.path.encode(), body])
    name = f"{principal.kind}:{principal.id}:{hashlib.sha256(key.encode()).hexdigest()}"
    return Idempotency(name, hashlib.sha256(asked).hexdigest())


def _session_principal() -> Principal | None:
    subject = session.get("account")
    return attached(Access).account(subject) if subject else None


def _bearer_token() -> str:
    authorization = request.authorization
    if authorization is None or authorization.type != "bearer" or not authorization.token:
        raise UnauthenticatedError("Send a Keyledger API key in the header Authorization: Bearer <key>.")
    return authorization.token
