"""Attaches the keys' calls and pages to the web application."""

from flask import Flask
from werkzeug.routing import Rule

from services.keys.commands import NoSuchKeyError, StaleVersionError
from services.keys.components import KeyComponents
from services.keys.model.key import RefusedError
from services.keys.model.point_in_time import NotYetCreatedError
from services.keys.monitoring import VERDICTS
from services.keys.queries import Keys
from services.keys.verification.usage import Usage
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
from shared.web.app import JsonApi, add_fast_path, attach_api
from shared.web.registration import Web
from shared.web.server.fast_path import WsgiEndpoint


def attach_service(web: Web, components: KeyComponents) -> None:
    """Attaches the service, with what the others lend it."""
    counter = VERDICTS.counter()
    count = {code: counter.labels(code).inc for code in (*CODES, UNAVAILABLE)}
    verdicts = VerdictEndpoints(components.verifier, web.authenticator, lambda code: count[code]())
    create = CreateEndpoint(components.keys.commands, web.authenticator, web.limits)
    register(web.app, web.api, components.keys, verdicts, create, components.usage)
    web.unread.add(FORWARD_AUTH)


def register(
    app: Flask,
    json_api: JsonApi,
    keys: Keys,
    verdicts: VerdictEndpoints,
    create: CreateEndpoint,
    usage: Usage,
) -> None:
    """Wiring and error mapping only."""
    for service in (keys, verdicts, usage):
        attach(app, service)
    attach_api(app, json_api, api.blueprint)
    attach_api(app, json_api, verify_api.blueprint)
    app.register_blueprint(pages.blueprint)
    app.register_error_handler(NoSuchKeyError, api.no_such_key)
    app.register_error_handler(RefusedError, api.refused)
    app.register_error_handler(StaleVersionError, api.stale_version)
    app.register_error_handler(PointInTimeError, api.no_such_point_in_time)
    app.register_error_handler(NotYetCreatedError, api.not_yet_created)
    app.register_error_handler(BehindError, verify_api.behind)
    app.register_error_handler(InvalidParameterError, verify_api.invalid_parameter)
    app.register_error_handler(ScopesLackingError, verify_api.scopes_lacking)
    # Whatever method a gateway's request has.
    app.url_map.add(Rule(FORWARD_AUTH, endpoint="verify_api.forward_auth", methods=None))
    endpoints: dict[str, WsgiEndpoint] = {
        "/v1/keys": create,
        "/v1/keys/verify": verdicts.verify,
        FORWARD_AUTH: verdicts.forward_auth,
    }
    add_fast_path(app, endpoints)
