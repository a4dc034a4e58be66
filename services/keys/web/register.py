"""Attaches the pages and the API of the key service to a web application."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from flask import Response
from werkzeug.routing import Rule

from services.keys.commands import NoSuchKeyError, StaleVersionError
from services.keys.components import KeyComponents
from services.keys.model.key import RefusedError
from services.keys.model.point_in_time import NotYetCreatedError
from services.keys.monitoring import VERDICTS
from services.keys.verification.verifier import CODES, BehindError
from services.keys.web import api, pages, verify_api
from services.keys.web.create_endpoint import CreateEndpoint
from services.keys.web.fast_path import (
    FORWARD_AUTH,
    UNAVAILABLE,
    InvalidParameterError,
    ScopesLackingError,
    VerdictEndpoints,
)
from shared.eventstore.point_in_time import PointInTimeError
from shared.web.access import attach
from shared.web.app import add_fast_path, attach_api
from shared.web.registration import Web
from shared.web.server.fast_path import WsgiEndpoint

_HANDLERS: Mapping[type[Exception], Callable[..., Response]] = MappingProxyType(
    {
        NoSuchKeyError: api.no_such_key,
        RefusedError: api.refused,
        StaleVersionError: api.stale_version,
        PointInTimeError: api.no_such_point_in_time,
        NotYetCreatedError: api.not_yet_created,
        BehindError: verify_api.behind,
        InvalidParameterError: verify_api.invalid_parameter,
        ScopesLackingError: verify_api.scopes_lacking,
    }
)


def attach_service(web: Web, components: KeyComponents) -> None:
    """Attaches everything: pages, API, error handlers and the fast path."""
    counter = VERDICTS.counter()
    count = {code: counter.labels(code).inc for code in (*CODES, UNAVAILABLE)}
    verdicts = VerdictEndpoints(components.verifier, web.authenticator, lambda code: count[code]())
    create = CreateEndpoint(components.keys.commands, web.authenticator, web.limits)
    for service in (components.keys, verdicts, components.usage):
        attach(web.app, service)
    attach_api(web.app, web.api, api.blueprint)
    attach_api(web.app, web.api, verify_api.blueprint)
    web.app.register_blueprint(pages.blueprint)
    for error, handler in _HANDLERS.items():
        web.app.register_error_handler(error, handler)
    # A gateway's request may have any method.
    web.app.url_map.add(Rule(FORWARD_AUTH, endpoint="verify_api.forward_auth", methods=None))
    endpoints: dict[str, WsgiEndpoint] = {
        "/v1/keys": create,
        "/v1/keys/verify": verdicts.verify,
        FORWARD_AUTH: verdicts.forward_auth,
    }
    add_fast_path(web.app, endpoints)
    web.unread.add(FORWARD_AUTH)
