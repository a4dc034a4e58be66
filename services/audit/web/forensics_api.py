"""JSON endpoints for forensics: past verdicts and leaked keys."""

from typing import Any

from flask import Response

from services.audit.forensics import Forensics, NoSuchKeyError
from services.audit.web.forensics_schemas import (
    NOT_A_KEY,
    FoundSchema,
    LeakLookupSchema,
    PastVerdictSchema,
    VerdictQuerySchema,
)
from shared.eventstore.point_in_time import PointInTimeError
from shared.forensics import NotAKeyError
from shared.identity import AUDIT_READ, Principal
from shared.web.access import attached, bearer
from shared.web.errors.handlers import refuse
from shared.web.json_requests import Calls

blueprint = Calls("inquiry_api", __name__, url_prefix="/v1/audit", description="Forensics into API keys")


@blueprint.route("/verdict", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(VerdictQuerySchema, location="query")
@blueprint.doc(responses={404: {}})
@blueprint.response(200, PastVerdictSchema, description="The verdict.")
def past_verdict(principal: Principal, query: dict[str, Any]) -> Any:
    """Check whether a key would have been accepted at a point in time, and why

    Evaluates the key as of that point in the ledger, with the secret that it had then. The code is the first
    one that applies: revoked, disabled, expired, missing scopes.
    """
    return attached(Forensics).verdict(principal, **query)


@blueprint.route("/lookup", methods=["POST"])
@bearer(AUDIT_READ)
@blueprint.without_query
@blueprint.arguments(LeakLookupSchema)
@blueprint.doc(responses={404: {}})
@blueprint.response(200, FoundSchema, description="The key.")
def look_up_key(principal: Principal, body: dict[str, str]) -> Any:
    """Look up a leaked key

    Returns which key it is, whether it is still accepted, how it was used, and what was done with it. The
    secret is compared with the digests in the ledger, and is neither stored nor logged. Only keys of your
    workspace are found. Use `next_cursor` with `GET /v1/audit/entries?actor=`.
    """
    return attached(Forensics).look_up(principal, body["api_key"])


@blueprint.errorhandler(NoSuchKeyError)
def no_such_key(_: NoSuchKeyError) -> Response:
    """404, also for a key of another workspace."""
    return refuse("key_not_found", "No such key in this workspace.")


@blueprint.errorhandler(PointInTimeError)
def no_such_point_in_time(error: PointInTimeError) -> Response:
    """422: the time or position is in the future."""
    rows = [{"field": "at", "message": str(error)}]
    return refuse(422, f"This point in time doesn't exist. {error}", errors=rows)


@blueprint.errorhandler(NotAKeyError)
def not_a_key(_: NotAKeyError) -> Response:
    """404, without the key. It isn't a 422, because the schema can't express the checksum."""
    return refuse("key_not_found", NOT_A_KEY)
