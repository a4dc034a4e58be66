"""The JSON calls on the audit log. They only translate: who, what, answer."""

from typing import Any

import structlog
from flask import Response

from services.audit.log.database import AuditDatabaseError
from services.audit.log.search import TooManyKeysError
from services.audit.queries import Audit
from services.audit.status import AuditStatus
from services.audit.web.schemas import EntriesSchema, IntegritySchema, QuerySchema
from shared.identity import AUDIT_READ, Principal
from shared.web.access import attached, bearer
from shared.web.errors.handlers import refuse
from shared.web.json_requests import Calls

blueprint = Calls("audit_api", __name__, url_prefix="/v1/audit", description="The audit log")

_log = structlog.get_logger(__name__)


@blueprint.route("/entries", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(QuerySchema, location="query")
@blueprint.response(200, EntriesSchema, description="A page of the log.")
def entries(principal: Principal, query: dict[str, Any]) -> Any:
    """Read the audit log of your workspace, newest first"""
    return attached(Audit).page(principal, **query)._asdict()


@blueprint.route("/integrity", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.without_query
@blueprint.response(200, IntegritySchema, description="How it stands.")
def integrity(_: Principal) -> Any:
    """Read how the audit log stands: what the last check found, and what was signed last

    The check itself is `keyledger audit check`. Whoever trusts nobody takes an export of the whole log, and
    holds it against the public key by `keyledger audit check --file`.
    """
    audit_status = attached(AuditStatus)
    progress = audit_status.progress()
    return {
        "alarm": audit_status.alarm(),
        "last_check": audit_status.last_check(),
        "last_checkpoint": audit_status.last_checkpoint(),
        "public_key": audit_status.public_key(),
        "position": progress.position,
        "lag_events": max(progress.lag.events, 0),
        "lag_seconds": progress.lag.ms / 1000,
        "in_step": progress.in_step,
    }


def too_many_keys(error: TooManyKeysError) -> Response:
    """422: the name says too little."""
    errors = [{"field": "name", "message": str(error)}]
    return refuse(422, "Mend the fields that `errors` names and send the request again.", errors=errors)


def database_away(error: AuditDatabaseError) -> Response:
    """503: the ledger has everything, so nothing is lost meanwhile."""
    _log.warning("the audit log's database is away", reason=str(error))
    detail = "The audit log does not answer at the moment. Nothing is lost; try again in a few seconds."
    return refuse(503, detail, {"Retry-After": "2"})
