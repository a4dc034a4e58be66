"""The JSON calls that ask about keys. They only translate: who, what, answer."""

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
    """Would this key have been accepted then, and why

    Judges the key as the ledger has it at that moment, and the secret that it had then. The code is the first
    that holds of revoked, disabled, expired, scopes lacking.
    """
    return attached(Forensics).verdict(principal, **query)


@blueprint.route("/lookup", methods=["POST"])
@bearer(AUDIT_READ)
@blueprint.without_query
@blueprint.arguments(LeakLookupSchema)
@blueprint.doc(responses={404: {}})
@blueprint.response(200, FoundSchema, description="Whose it is.")
def look_up_key(principal: Principal, body: dict[str, str]) -> Any:
    """Look up a leaked key

    Tells whose it is, whether it is still good, how it was used, and what it did. What you send is compared
    with the digests in the ledger, and neither stored nor logged. A secret that was never one of your
    workspace's keys is not found. `next_cursor` is for `GET /v1/audit/entries?actor=`.
    """
    return attached(Forensics).look_up(principal, body["api_key"])


@blueprint.errorhandler(NoSuchKeyError)
def no_such_key(_: NoSuchKeyError) -> Response:
    """404, also for a key of another workspace."""
    return refuse("key_not_found", "No such key in this workspace.")


@blueprint.errorhandler(PointInTimeError)
def no_such_point_in_time(error: PointInTimeError) -> Response:
    """422: a time or a position that is yet to come."""
    rows = [{"field": "at", "message": str(error)}]
    return refuse(422, f"There is no such moment to judge. {error}", errors=rows)


@blueprint.errorhandler(NotAKeyError)
def not_a_key(_: NotAKeyError) -> Response:
    """404, which does not repeat what was sent. No schema tells a checksum, so the field is not at fault."""
    return refuse("key_not_found", NOT_A_KEY)
