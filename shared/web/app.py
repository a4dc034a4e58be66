"""The Flask application that every service attaches its pages and API to."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from flask import Flask, Response, g, redirect, request, url_for
from flask.sessions import SessionInterface
from flask_smorest import Api
from flask_wtf.csrf import CSRFProtect
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.wrappers import Response as AnyResponse

from shared.clock import date_utc, rfc3339
from shared.eventstore.envelope import actor_name
from shared.text.characters import escaped
from shared.web.access import Access, attach, context
from shared.web.errors.handlers import map_errors, refuse
from shared.web.openapi.document import SchemaRules, completed
from shared.web.openapi.routes import attach_interface
from shared.web.schemas import ProblemSchema, Timestamp
from shared.web.server.bodies import Bodies
from shared.web.server.connections import ConnectionGuard
from shared.web.server.context import FAILURE, MAX_BODY_BYTES, RequestContext, begin_request, response_headers
from shared.web.server.fast_path import FastPath, WsgiEndpoint
from shared.web.server.limits import Limits
from shared.web.server.proxies import TrustedProxies
from shared.web.server.request_metrics import RequestMetrics
from shared.web.server.slots import Slots

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_HERE = Path(__file__).parent

_PROBES = frozenset({"/healthz", "/readyz", "/statusz", "/metrics"})  # also while all threads are busy
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

_log = structlog.get_logger(__name__)


class JsonApi(Api):  # type: ignore[misc]  # flask-smorest publishes no types
    """flask-smorest without its own error handlers and documentation pages."""

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

    `home` is the endpoint of the dashboard's first page.
    """
    app = Flask("keyledger", static_folder=_HERE / "static", template_folder=_HERE / "templates")
    app.config.update(
        SECRET_KEY=secret_key,
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MAX_BODY_BYTES,
        SEND_FILE_MAX_AGE_DEFAULT=300,
        WTF_CSRF_TIME_LIMIT=None,  # a form is valid for as long as its session
        WTF_CSRF_SSL_STRICT=False,  # it needs a Referer, which some browsers never send
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
    map_errors(app)
    CSRFProtect(app)
    api = JsonApi(app, spec_kwargs={"extra_plugins": [SchemaRules()]})
    api.register_field(Timestamp, "string", "date-time")
    attach_interface(app, lambda: completed(api.spec.to_dict(), app))
    return app, api


def attach_api(app: Flask, api: JsonApi, blueprint: object) -> None:
    """Attaches API endpoints. They accept bearer tokens only, so they need no CSRF token."""
    app.extensions["csrf"].exempt(blueprint)
    api.register_blueprint(blueprint)


def limit_concurrency(app: Flask, threads: int) -> None:
    """Works on up to `threads` requests at once; others wait. The fast path isn't limited."""
    app.wsgi_app = Slots(app.wsgi_app, threads, _PROBES)  # type: ignore[method-assign]  # as Flask documents


def add_fast_path(app: Flask, endpoints: Mapping[str, WsgiEndpoint]) -> None:
    """Answers requests to some paths before Flask, with the headers of every response."""
    app.wsgi_app = FastPath(app.wsgi_app, endpoints)  # type: ignore[method-assign]  # as Flask documents


def surround(app: Flask, proxies: int, guard: ConnectionGuard, unread: Collection[str]) -> None:
    """Reads each body, counts every request, and trusts what `proxies` proxies in front report of a client.

    They report the client's IP address, whether it used TLS, and the host. The body of `unread` paths isn't
    read. Call this last, since it has to surround everything that looks at a request.
    """
    surrounded: WSGIApplication = RequestMetrics(app.wsgi_app)
    if proxies:
        surrounded = TrustedProxies(surrounded, proxies)
    access: Access = app.extensions["keyledger"][Access]
    admit = partial(RequestContext.caller, authenticate=access.authenticate)
    app.wsgi_app = Bodies(surrounded, guard, admit, unread)  # type: ignore[method-assign]  # as Flask documents


def _shown(value: object) -> object:
    """Escapes the characters that could hide text on a page or reverse its direction."""
    return escaped(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _begin() -> AnyResponse | None:
    """Names the request, then raises whatever failed before Flask."""
    route = request.url_rule.rule if request.url_rule else None
    g.request_id = begin_request(request.environ, route).id
    clear_contextvars()
    bind_contextvars(request_id=g.request_id)
    if failure := request.environ.get(FAILURE):
        raise failure
    if request.method not in _SAFE_METHODS and (coding := _content_coding()):
        detail = f"The body can't have the content encoding “{coding}”. Send it uncompressed."
        return refuse("unsupported_encoding", detail, {"Accept-Encoding": "identity"})
    if request.method not in _SAFE_METHODS and not context().is_api:
        return _refuse_other_sites()
    return None


def _content_coding() -> str:
    """The declared compression of the body; empty if it has none."""
    named = request.headers.get("Content-Encoding", "identity").replace(",", " ").split()
    if not named:  # granian gives a header as empty if it isn't ASCII
        return "(empty or not ASCII)"
    codings = [coding[:20] for coding in named if coding.lower() != "identity"]
    return ", ".join(codings[:3])


def _refuse_other_sites() -> AnyResponse | None:
    """Returns an error if the browser reports that another site's page sent the form. Pages can't fake that.

    Browsers that don't send Sec-Fetch-Site, as over plain HTTP, send Origin. Only its host is compared,
    since a proxy may have ended TLS.
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
