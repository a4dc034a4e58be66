"""Maps every exception to a response: the one error mapping of pages, API and fast path."""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

import structlog
from flask import Flask, Response, g, redirect, render_template, request, url_for
from flask_wtf.csrf import CSRFError
from redis import RedisError
from redis.exceptions import OutOfMemoryError
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.wrappers import Response as AnyResponse

from shared.errors import InvalidFieldError
from shared.eventstore.envelope import UnreadableEventError
from shared.eventstore.ledger import NotReplicatedError, VersionConflictError
from shared.identity import ForbiddenError, InvalidKeyError, RotatedSecretError, UnauthenticatedError
from shared.store.connections import StoreError
from shared.store.idempotency import IdempotencyConflictError
from shared.web.access import Access, attached, context, origin
from shared.web.errors.problems import Refusal, challenge, problem
from shared.web.schemas import field_errors
from shared.web.server.connections import BODY_DEADLINE_S
from shared.web.server.context import MAX_BODY_BYTES
from shared.web.server.limits import TooManyRequestsError
from shared.web.server.slots import BusyError
from shared.web.session import UnreadableCookieError

_log = structlog.get_logger(__name__)


def map_errors(app: Flask) -> None:
    """Registers a handler for every exception that can leave a view."""
    handlers: dict[type[Exception], Callable[..., AnyResponse]] = {
        HTTPException: _http_error,
        CSRFError: _stale_form,
        UnreadableCookieError: _unreadable_cookie,
        UnauthenticatedError: _unauthenticated,
        ForbiddenError: _forbidden,
        VersionConflictError: lambda _: refuse(
            409, "This was changed by another request at the same time. Read it again and repeat your change."
        ),
        InvalidFieldError: _invalid_field,
        IdempotencyConflictError: lambda _: refuse(
            "idempotency_key_reused",
            "This Idempotency-Key was used for another request. Use a new one for a new request.",
        ),
        BusyError: lambda error: refuse(503, str(error), {"Retry-After": str(error.retry_after)}),
        TooManyRequestsError: lambda error: refuse(429, str(error), {"Retry-After": str(error.retry_after)}),
        UnreadableEventError: _unreadable,
        OutOfMemoryError: _store_full,
        RedisError: _store_unavailable,
        StoreError: _store_unavailable,
        NotReplicatedError: _store_unavailable,
        InternalServerError: _failed_late,
        Exception: _unexpected,
    }
    for kind, handler in handlers.items():
        app.register_error_handler(kind, handler)


def refuse(
    code: str | int,
    detail: str,
    headers: dict[str, str] | None = None,
    errors: Sequence[Mapping[str, str]] = (),
) -> Response:
    """Returns an error as the client expects it: problem+json for an API request, a page for a browser.

    `code` is one of `problems.PROBLEMS`, or a status that stands for its default code.
    """
    named = Refusal.of(code)
    if context().is_api:
        return problem(named, detail, errors, headers)
    page = render_template(
        "error.html", status=named.status, title=named.title, detail=detail, request_id=g.request_id
    )
    return Response(page, named.status, headers)


def _http_error(error: HTTPException) -> AnyResponse:
    data = getattr(error, "data", None)  # where webargs keeps the messages by field
    if data and "messages" in data:
        rows = [row for place in data["messages"].values() for row in field_errors(place)]
        if error.code == HTTPStatus.BAD_REQUEST:
            return refuse("invalid_json", "The body isn't valid JSON. Correct it and send the request again.")
        return refuse(422, "Fix the fields listed in `errors` and retry.", errors=rows)
    status = error.code or 500
    headers = {name: value for name, value in error.get_headers() if name == "Allow"}
    if status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        headers["Accept"] = "application/json"
    advice = _ADVICE[status].format(home=url_for("home")) if status in _ADVICE else error.description
    return refuse(status, advice or "", headers)


_ADVICE = {
    404: "There is nothing at this URL. Check it, or start at {home}.",
    405: "This URL doesn't accept this method. Use one that the header Allow lists.",
    415: "Send a JSON body with the header Content-Type: application/json.",
    408: f"The body didn't arrive within {BODY_DEADLINE_S:.0f} s. Send the request again.",
    413: f"The body is too large. Send up to {MAX_BODY_BYTES // 1024} KiB.",
}


def _stale_form(_: CSRFError) -> AnyResponse:
    return refuse(400, "Your session or this form has expired. Go back, reload the page and send it again.")


def _unreadable_cookie(_: UnreadableCookieError) -> AnyResponse:
    return refuse(
        400,
        "Your browser sent a cookie with characters outside ASCII, so none of its cookies could be read. "
        f"Another program on {request.host} set it. Delete the cookies of {request.host} in your browser's "
        "settings, then sign in again.",
    )


def _unauthenticated(error: UnauthenticatedError) -> AnyResponse:
    if context().is_api:
        if isinstance(error, InvalidKeyError):
            return refuse("invalid_key", str(error), challenge("invalid_token"))
        return refuse("missing_key", str(error), challenge())
    return redirect(url_for("accounts.sign_in"), 303)


def _forbidden(error: ForbiddenError) -> Response:
    """Records the denial. Pages don't name the scope, which would mean nothing to most users."""
    attached(Access).denied(error.principal, error.scope, origin())
    if isinstance(error, RotatedSecretError):
        return refuse("rotated_secret", str(error), challenge("insufficient_scope"))
    if type(error) is ForbiddenError and not context().is_api:
        return refuse(403, "You don't have access. Ask an owner of this workspace.")
    return refuse("insufficient_scope", str(error), challenge("insufficient_scope", error.scope))


def _store_full(error: BaseException) -> AnyResponse:
    _log.warning("store full", error=str(error))
    detail = "Nothing was done: the store is out of memory. Ask your operator to increase its memory limit."
    return refuse("store_full", detail, {"Retry-After": "30"})


def _store_unavailable(error: BaseException) -> AnyResponse:
    _log.warning("store away", error=str(error))
    detail = "The store doesn't answer at the moment. Try again in a few seconds."
    if request.method not in {"GET", "HEAD"}:
        detail += (
            " Whether this request was carried out is unknown:"
            " retry with the same Idempotency-Key, or check before you repeat it."
        )
    return refuse("store_unavailable", detail, {"Retry-After": "2"})


def _unreadable(error: Exception) -> AnyResponse:
    _log.error("unreadable event", error=str(error))
    detail = "This version of Keyledger can't read the history. Update Keyledger."
    return refuse("unreadable_history", detail, {"Retry-After": "60"})


def _failed_late(error: InternalServerError) -> AnyResponse:
    """Flask wraps what fails after the view, such as storing the session, in an error 500."""
    original = error.original_exception or error
    if isinstance(original, OutOfMemoryError):
        return _store_full(original)
    return (
        _store_unavailable(original)
        if isinstance(original, RedisError | StoreError)
        else _unexpected(original)
    )


def _invalid_field(error: InvalidFieldError) -> AnyResponse:
    """422 for a field that only the command itself can check."""
    return refuse(422, str(error), errors=[{"field": error.field, "message": str(error)}])


def _unexpected(error: BaseException) -> AnyResponse:
    _log.error("unexpected error", exc_info=error)
    return refuse(500, "Internal error. Retry; if it persists, report the request ID.")
