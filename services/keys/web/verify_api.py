"""Verdicts and usage over the API: what `fast_path` leaves to Flask, and its description in OpenAPI."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import structlog
from flask import Response

from services.keys.queries import Keys
from services.keys.verification.usage import Usage
from services.keys.verification.verifier import BehindError
from services.keys.web.api import ONE_KEY
from services.keys.web.fast_path import (
    Asked,
    InvalidParameterError,
    ScopesLackingError,
    VerdictEndpoints,
    to_json,
)
from services.keys.web.fields import SCOPE_LIST_PATTERN
from services.keys.web.verify_schemas import UsageQuerySchema, UsageSchema, VerdictSchema, VerifySchema
from shared.identity import KEYS_READ, KEYS_VERIFY, WORKSPACE_PATTERN, Principal
from shared.web.access import attached, bearer, context
from shared.web.errors.handlers import refuse
from shared.web.errors.problems import challenge
from shared.web.json_requests import Calls
from shared.web.openapi.document import documented, headers, needs_scope, query_parameter
from shared.web.schemas import AfterSchema, PositionHeaderSchema

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_POSITION = "X-Ledger-Position"

_log = structlog.get_logger(__name__)

blueprint = Calls("verify_api", __name__, url_prefix="/v1", description="Verdicts on API keys")


def _by_verifiers(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return view(attached(VerdictEndpoints).caller(context()), *args, **kwargs)

    documented(guarded, needs_scope(KEYS_VERIFY, limited=False))
    return guarded


@blueprint.route("/keys/verify", methods=["POST"])
@_by_verifiers
@blueprint.arguments(PositionHeaderSchema, location="headers", as_kwargs=True)
@blueprint.arguments(AfterSchema, location="query")
@blueprint.arguments(VerifySchema)
@blueprint.alt_response(200, schema=VerdictSchema, description="The verdict.")
def verify_key(
    caller: Principal, query: dict[str, Any], body: dict[str, Any], ledger_position: int
) -> Response:
    """Verify a key

    Returns the verdict on a key of your workspace, or of any workspace with the scope
    keyledger:platform.verify. The code is the first of these that applies: malformed, not found, revoked,
    disabled, expired, insufficient scopes.
    """
    asked = Asked(body["api_key"], tuple(body["scopes"]))
    verdict = attached(VerdictEndpoints).verdict(caller, asked, max(query["after"], ledger_position))
    return Response(to_json(verdict), content_type="application/json")


@blueprint.route("/forward-auth", methods=_METHODS)
@blueprint.doc(
    security=[{"bearer": []}],
    responses={400: {}, 401: {}, 403: {}, 503: {}},
    parameters=[
        query_parameter(
            "scopes",
            "The scopes that the key must hold, separated by commas or spaces.",
            "orders:read",
            pattern=SCOPE_LIST_PATTERN,
        ),
        query_parameter(
            "workspace", "Only accept keys of this workspace.", "default", pattern=WORKSPACE_PATTERN
        ),
    ],
)
@blueprint.alt_response(
    200,
    description="The key is valid.",
    headers=headers("X-Keyledger-Key-Id", "X-Keyledger-Workspace", "X-Keyledger-Scopes"),
)
def forward_auth() -> Response:
    """Authorize a request for a gateway

    Verifies the bearer token of the request, a key of any workspace. An unknown, empty, repeated or invalid
    parameter is rejected with 400, so that a rule with a typo denies every request.
    """
    answer = attached(VerdictEndpoints).forward_auth(context())
    return Response(answer.body, answer.status, answer.headers)


@blueprint.route("/keys/<key_id>/usage", methods=["GET"], parameters=ONE_KEY)
@bearer(KEYS_READ)
@blueprint.arguments(UsageQuerySchema, location="query")
@blueprint.response(200, UsageSchema, description="The usage.")
def read_usage(principal: Principal, query: dict[str, Any], key_id: str) -> Any:
    """Get the usage of a key

    Counts are collected in memory and written once a second, so a crash can lose those of the last second.
    """
    keys = attached(Keys)
    keys.check_known(principal, key_id)
    return attached(Usage).read(key_id, query["days"], keys.commands.now())


def invalid_parameter(error: InvalidParameterError) -> Response:
    """400: a gateway is configured with a rule that can't be read. The log names it for the operator."""
    _log.warning("forward-auth refused a parameter", parameter=error.name, error=str(error))
    rows = [{"field": error.name, "message": str(error)}]
    return refuse("invalid_parameter", f"{error} Correct the gateway's configuration.", errors=rows)


def scopes_lacking(error: ScopesLackingError) -> Response:
    """403, as gateways expect it."""
    return refuse("insufficient_scope", str(error), challenge("insufficient_scope", *error.scopes))


def behind(error: BehindError) -> Response:
    """503: the ledger lacks the position that a verdict was asked for at."""
    detail = f"{error} Try again in a second. If this persists, the ledger lost what you saw of it."
    return refuse("position_not_reached", detail, {"Retry-After": "1", _POSITION: str(error.head)})
