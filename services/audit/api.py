"""The JSON calls on the audit log. They only translate: who, what, answer."""

from typing import Any

import structlog
from flask import Response

from services.audit.database import AuditDatabaseError
from services.audit.schemas import EntriesSchema, QuerySchema
from services.audit.service import Audit
from shared.identity import AUDIT_READ, Principal
from shared.web.access import attached, bearer
from shared.web.app import refuse
from shared.web.calls import Calls

blueprint = Calls("audit_api", __name__, url_prefix="/v1/audit", description="The audit log")

_log = structlog.get_logger(__name__)


@blueprint.route("/entries", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(QuerySchema, location="query")
@blueprint.response(200, EntriesSchema, description="A page of the log.")
def entries(principal: Principal, query: dict[str, Any]) -> Any:
    """Read the audit log of your workspace, newest first"""
    return attached(Audit).page(principal, **query)._asdict()


def database_away(error: AuditDatabaseError) -> Response:
    """503: the ledger has everything, so nothing is lost meanwhile."""
    _log.warning("the audit log's database is away", reason=str(error))
    detail = "The audit log does not answer at the moment. Nothing is lost; try again in a few seconds."
    return refuse(503, detail, {"Retry-After": "2"})
