"""JSON endpoints of the audit log."""

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
@blueprint.response(200, IntegritySchema, description="The status.")
def integrity(_: Principal) -> Any:
    """Read the status of the audit log: the last check, the last checkpoint and the lag

    `keyledger audit check` runs a check. To verify the log without trusting this server, export the whole log
    and run `keyledger audit check --file` with the public key.
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
    errors = [{"field": "name", "message": str(error)}]
    return refuse(422, "Fix the fields in `errors` and send the request again.", errors=errors)


def database_unavailable(error: AuditDatabaseError) -> Response:
    _log.warning("the audit log's database is unavailable", reason=str(error))
    detail = "The audit log is unavailable. Nothing is lost; try again in a few seconds."
    return refuse(503, detail, {"Retry-After": "2"})
