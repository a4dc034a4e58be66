"""Authenticates every view: pages by a session, API requests by a bearer token."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from flask import Flask, current_app, g, redirect, request, session, url_for
from werkzeug.wrappers import Response

from shared.eventstore.envelope import Request
from shared.identity import Authenticator, Principal, authorize
from shared.store.idempotency import Idempotency
from shared.web.openapi.document import documented, needs_scope
from shared.web.server.context import RequestContext
from shared.web.server.limits import Limits
from shared.web.session import renew

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")


@dataclass(frozen=True)
class Access:
    """Functions of other services that authenticate a request and record a denial."""

    authenticate: Authenticator
    # Returns the account by its subject, and the version of it that the session began at.
    account: Callable[[str, int], Principal | None]
    denied: Callable[[Principal, str, Request], None]  # records who lacked which scope; it never fails


def attach(app: Flask, service: object) -> None:
    """Hands an app what its views work with; they get it back by its class."""
    app.extensions.setdefault("keyledger", {})[type(service)] = service


def attached(kind: type[_S]) -> _S:
    """What was attached to the app of this request."""
    service: _S = current_app.extensions["keyledger"][kind]
    return service


def signed_in(
    scope: str | None,
) -> Callable[[Callable[Concatenate[Principal, _P], _R]], Callable[_P, _R | Response]]:
    """A page for users who hold the scope, if it needs one. The view gets the principal first.

    Visitors are redirected to sign in. The rate limit counts all sessions of an account together.
    """

    def decorate(view: Callable[Concatenate[Principal, _P], _R]) -> Callable[_P, _R | Response]:
        @wraps(view)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R | Response:
            principal = _session_principal()
            if principal is None:
                target = request.full_path.rstrip("?") if request.method == "GET" else None
                return redirect(url_for("accounts.sign_in", next=target), 303)
            g.principal = principal
            attached(Limits).count(principal)
            if scope is not None:
                authorize(principal, scope)
            return view(principal, *args, **kwargs)

        return guarded

    return decorate


def bearer(
    scope: str, *, limited: bool = True
) -> Callable[[Callable[Concatenate[Principal, _P], _R]], Callable[_P, _R]]:
    """An API endpoint for keys that hold the scope, with a rate limit if it is `limited`.

    The view gets the principal first.
    """

    def decorate(view: Callable[Concatenate[Principal, _P], _R]) -> Callable[_P, _R]:
        @wraps(view)
        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            principal = context().caller(attached(Access).authenticate)
            if limited:
                attached(Limits).count(principal)
            authorize(principal, scope)
            return view(principal, *args, **kwargs)

        documented(guarded, needs_scope(scope, limited=limited))
        return guarded

    return decorate


def context() -> RequestContext:
    """The request that Flask works on."""
    return RequestContext(request.environ)


def origin() -> Request:
    """What events record of this request."""
    return context().origin


def idempotency(principal: Principal, key: str | None) -> Idempotency | None:
    """The caller's `Idempotency-Key`, if it sent one, with the request's method, path and body."""
    return idempotency_of(principal, key, request.get_data()) if key else None


def idempotency_of(principal: Principal, key: str, body: bytes) -> Idempotency:
    """The same for a key and a body from elsewhere: forms carry theirs in a field."""
    return context().idempotency(principal, key, body)


def begin_session(subject: str, version: int) -> None:
    """Signs in as an account at its current version, in a session with a new ID."""
    renew(session)
    session["account"] = subject
    session["account_version"] = version
    session["name"] = secrets.token_hex(8)


def session_name() -> str:
    """A name by which attempts in this session are counted. Unlike the cookie, it isn't a secret."""
    name: str = session.get("name", "")
    return name


def _session_principal() -> Principal | None:
    subject = session.get("account")
    if subject is None:
        return None
    principal = attached(Access).account(subject, session.get("account_version", 0))
    if principal is None:
        session.clear()  # the account changed since the session began
    return principal
