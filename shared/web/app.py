"""The web application that every service's pages and calls are attached to."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from flask import Flask, Response, g, redirect, render_template, request, url_for
from flask.sessions import SessionInterface
from flask_smorest import Api
from flask_wtf.csrf import CSRFError, CSRFProtect
from redis import RedisError
from redis.exceptions import OutOfMemoryError
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.wrappers import Response as AnyResponse

from shared.clock import date_utc, rfc3339
from shared.errors import InvalidFieldError
from shared.eventstore.descriptions import actor_name
from shared.eventstore.events import UnreadableEventError
from shared.eventstore.ledger import IdempotencyConflictError, NotReplicatedError, VersionConflictError
from shared.identity import ForbiddenError, InvalidKeyError, RotatedSecretError, UnauthenticatedError
from shared.store.connections import StoreError
from shared.text.characters import escaped
from shared.web.access import Access, attach, attached, context, origin
from shared.web.openapi.document import SchemaRules, completed
from shared.web.openapi.routes import attach_interface
from shared.web.problems import Refusal, challenge, problem
from shared.web.schemas import ProblemSchema, Timestamp, field_errors
from shared.web.server.bodies import Bodies
from shared.web.server.connections import BODY_DEADLINE_S, ConnectionGuard
from shared.web.server.context import FAILURE, MAX_BODY_BYTES, RequestContext, begin_request, response_headers
from shared.web.server.fast_path import FastPath, WsgiEndpoint
from shared.web.server.limits import Limits, TooManyRequestsError
from shared.web.server.proxies import TrustedProxies
from shared.web.server.request_metrics import RequestMetrics
from shared.web.server.slots import BusyError, Slots
from shared.web.session import UnreadableCookieError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_HERE = Path(__file__).parent

_PROBES = frozenset({"/healthz", "/readyz", "/statusz", "/metrics"})  # also while all threads are busy
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

_log = structlog.get_logger(__name__)


class JsonApi(Api):  # type: ignore[misc]  # flask-smorest publishes no types
    """flask-smorest, with its errors left to the one mapping below, and its pages to `interface`."""

    DEFAULT_ERROR_RESPONSE_NAME = None
    ERROR_SCHEMA = ProblemSchema

    def _register_error_handlers(self) -> None:
        pass


def create_app(
    *,
    secret_key: str,
    sessions: SessionInterface,
    access: Access,
    home: str,
    limits: Limits,
) -> tuple[Flask, JsonApi]:
    """An app with sessions, CSRF, errors and headers, and the API that JSON blueprints are registered on.

    `home` is the endpoint of the page that the dashboard begins with.
    """
    app = Flask("keyledger", static_folder=_HERE / "static", template_folder=_HERE / "templates")
    app.config.update(
        SECRET_KEY=secret_key,
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MAX_BODY_BYTES,
        SEND_FILE_MAX_AGE_DEFAULT=300,
        WTF_CSRF_TIME_LIMIT=None,  # a form is good for as long as its session
        WTF_CSRF_SSL_STRICT=False,  # it wants a Referer, which some browsers keep to themselves
        API_TITLE="Keyledger",
        API_VERSION="1",
        OPENAPI_VERSION="3.1.0",
    )
    app.session_interface = sessions
    app.jinja_options = {**app.jinja_options, "finalize": _shown}
    app.add_template_filter(rfc3339, "datetime_utc")
    app.add_template_filter(actor_name)
    app.add_template_filter(date_utc)
    app.context_processor(lambda: {"principal": g.get("principal"), "endpoints": app.view_functions})
    app.add_url_rule("/", "home", lambda: redirect(url_for(home)))
    app.before_request(_begin)
    app.after_request(_finish)
    attach(app, access)
    attach(app, limits)
    _map_errors(app)
    CSRFProtect(app)
    api = JsonApi(app, spec_kwargs={"extra_plugins": [SchemaRules()]})
    api.register_field(Timestamp, "string", "date-time")
    attach_interface(app, lambda: completed(api.spec.to_dict(), app))
    return app, api


def attach_calls(app: Flask, api: JsonApi, blueprint: object) -> None:
    """Attaches JSON calls. They know callers by their bearer token alone, so they need no CSRF token."""
    app.extensions["csrf"].exempt(blueprint)
    api.register_blueprint(blueprint)


def limit_concurrency(app: Flask, threads: int) -> None:
    """Works on up to `threads` requests at once; others wait. Calls before Flask are not counted."""
    app.wsgi_app = Slots(app.wsgi_app, threads, _PROBES)  # type: ignore[method-assign]  # as Flask documents


def add_fast_path(app: Flask, endpoints: Mapping[str, WsgiEndpoint]) -> None:
    """Answers requests to some paths before Flask, with the headers of every response."""
    app.wsgi_app = FastPath(app.wsgi_app, endpoints)  # type: ignore[method-assign]  # as Flask documents


def surround(app: Flask, proxies: int, guard: ConnectionGuard, unread: Collection[str]) -> None:
    """Reads each body, counts every request, and trusts what `proxies` proxies in front report of a client.

    That is the address, whether it is TLS, and the site's name. The body of `unread` paths is never read.
    To be called last, for it goes around all that looks at a request.
    """
    surrounded: WSGIApplication = RequestMetrics(app.wsgi_app)
    if proxies:
        surrounded = TrustedProxies(surrounded, proxies)
    access: Access = app.extensions["keyledger"][Access]
    admit = partial(RequestContext.caller, authenticate=access.authenticate)
    app.wsgi_app = Bodies(surrounded, guard, admit, unread)  # type: ignore[method-assign]  # as Flask documents


def _shown(value: object) -> object:
    """What a page shows of a value: no character that could hide text or turn it around."""
    return escaped(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _begin() -> AnyResponse | None:
    """Names the request, and tells first of all what went wrong with it before Flask."""
    route = request.url_rule.rule if request.url_rule else None
    g.request_id = begin_request(request.environ, route).id
    clear_contextvars()
    bind_contextvars(request_id=g.request_id)
    if failure := request.environ.get(FAILURE):
        raise failure
    if request.method not in _SAFE_METHODS and (coding := _content_coding()):
        detail = f"The body can't have the content encoding “{coding}”. Send it uncompressed."
        return refuse("unsupported_encoding", detail, {"Accept-Encoding": "identity"})
    if request.method not in _SAFE_METHODS and not _is_call():
        return _refuse_other_sites()
    return None


def _content_coding() -> str:
    """How the body is compressed, as its sender says; empty if it isn't."""
    named = request.headers.get("Content-Encoding", "identity").replace(",", " ").split()
    if not named:  # granian gives a header as empty if it isn't ASCII
        return "(empty or not ASCII)"
    codings = [coding[:20] for coding in named if coding.lower() != "identity"]
    return ", ".join(codings[:3])


def _refuse_other_sites() -> AnyResponse | None:
    """An answer if the browser reports that another site's page sent the form. No page can change that.

    Browsers that don't report the relation, as over plain HTTP, report the origin. Only its host is compared,
    for a proxy may have ended TLS.
    """
    relation = request.headers.get("Sec-Fetch-Site", "none")
    sent_from = request.headers.get("Origin")
    if relation == "same-origin" or (relation == "none" and (sent_from is None or _is_here(sent_from))):
        return None
    detail = "This form came from another site. Open the page here and send it again."
    if relation == "none" and (host := _host_of(sent_from or "")):
        detail += (
            f" If you did open it here, at {host}, the proxy in front of Keyledger changed the header Host to"
            f" {request.host}. It must pass on the host with its port: as Host (in nginx: proxy_set_header"
            " Host $http_host), or as X-Forwarded-Host where KEYLEDGER_TRUSTED_PROXIES counts the proxy."
        )
    return refuse(403, detail)


def _is_here(sent_from: str) -> bool:
    port = {"http": ":80", "https": ":443"}.get(sent_from.partition("://")[0], "")
    return _host_of(sent_from).removesuffix(port) == request.host.removesuffix(port)


def _host_of(sent_from: str) -> str:
    return sent_from.partition("://")[2]


def _finish(response: Response) -> Response:
    headers = response.headers
    headers.extend(response_headers(context()))
    if request.endpoint != "static":
        headers.setdefault("Cache-Control", "no-store")
    return response


def _is_call() -> bool:
    return context().is_api


def _map_errors(app: Flask) -> None:
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
        RedisError: _store_away,
        StoreError: _store_away,
        NotReplicatedError: _store_away,
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
    """An error in the form that suits the caller: a problem for a call, a page for a person.

    It is named by its code in `problems.PROBLEMS`, or by a status, which has a code by default.
    """
    named = Refusal.of(code)
    if _is_call():
        return problem(named, detail, errors, headers)
    page = render_template(
        "error.html", status=named.status, title=named.title, detail=detail, request_id=g.request_id
    )
    return Response(page, named.status, headers)


def _http_error(error: HTTPException) -> AnyResponse:
    data = getattr(error, "data", None)  # where webargs keeps what was wrong with which field
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
    if _is_call():
        if isinstance(error, InvalidKeyError):
            return refuse("invalid_key", str(error), challenge("invalid_token"))
        return refuse("missing_key", str(error), challenge())
    return redirect(url_for("accounts.sign_in"), 303)


def _forbidden(error: ForbiddenError) -> Response:
    """Records the denial. A person isn't told the name of a scope where it would mean nothing to them."""
    attached(Access).denied(error.principal, error.scope, origin())
    if isinstance(error, RotatedSecretError):
        return refuse("rotated_secret", str(error), challenge("insufficient_scope"))
    if type(error) is ForbiddenError and not _is_call():
        return refuse(403, "You don't have access. Ask an owner of this workspace.")
    return refuse("insufficient_scope", str(error), challenge("insufficient_scope", error.scope))


def _store_full(error: BaseException) -> AnyResponse:
    _log.warning("store full", error=str(error))
    detail = "Nothing was done: the store is out of memory. Ask your operator to increase its memory limit."
    return refuse("store_full", detail, {"Retry-After": "30"})


def _store_away(error: BaseException) -> AnyResponse:
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
    """What fails after the view, as keeping the session may, comes from Flask wrapped in an error 500."""
    original = error.original_exception or error
    if isinstance(original, OutOfMemoryError):
        return _store_full(original)
    return _store_away(original) if isinstance(original, RedisError | StoreError) else _unexpected(original)


def _invalid_field(error: InvalidFieldError) -> AnyResponse:
    """422: what only the command itself could see."""
    return refuse(422, str(error), errors=[{"field": error.field, "message": str(error)}])


def _unexpected(error: BaseException) -> AnyResponse:
    _log.error("unexpected error", exc_info=error)
    return refuse(500, "Internal error. Retry; if it persists, report the request ID.")
