"""Endpoints that export the audit log as a file."""

from typing import Any

from flask import Response

from services.audit.export.service import Format
from services.audit.log.filters import Filters
from services.audit.web.export_response import MEDIA, exported, map_errors
from services.audit.web.schemas import FiltersSchema
from shared.identity import AUDIT_READ, Principal
from shared.text.key_detection import resembles_key
from shared.web.access import bearer
from shared.web.errors.handlers import refuse
from shared.web.json_requests import Calls

_EXAMPLES = {
    "jsonl": '{"entry_hash":"9f86d08…","previous_hash":"60303ae…","record":{"at":1795460361123,…}}\n'
    '{"trailer":"keyledger audit export v1\\nscope {\\"workspace\\":\\"default\\"}\\n…"}\n',
    "csv": '"position","time","event","key_id",…\r\n'
    '"17","2026-11-23T18:59:21.123Z","KeyToggled","3fA9bQ27LmZ0",…\r\n',
}

blueprint = Calls(
    "audit_export_api", __name__, url_prefix="/v1/audit", description="Exports of the audit log"
)
map_errors(blueprint)


def _as_file(form: str) -> dict[str, Any]:
    """The OpenAPI description of the response."""
    content = {MEDIA[form]: {"schema": {"type": "string"}, "example": _EXAMPLES[form]}}
    return {"responses": {200: {"description": "The file, streamed.", "content": content}, 422: {}}}


@blueprint.route("/entries.jsonl", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(FiltersSchema, location="query")
@blueprint.doc(**_as_file("jsonl"))
def export_jsonl(principal: Principal, criteria: dict[str, Any]) -> Response:
    """Export the audit log of your workspace as verifiable JSON Lines

    Oldest first. The last line is a signed trailer: how many entries, where they end, and the SHA-256 of all
    lines before it. A file without it is incomplete. `keyledger audit check --file` verifies the file with
    the public key alone. Each export is recorded in the log with your filters, so a filter that looks like an
    API key is rejected. You can start 10 exports a minute.
    """
    return _export(principal, criteria, "jsonl")


@blueprint.route("/entries.csv", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(FiltersSchema, location="query")
@blueprint.doc(**_as_file("csv"))
def export_csv(principal: Principal, criteria: dict[str, Any]) -> Response:
    """Export the audit log of your workspace as CSV

    Oldest first, in UTF-8 with a byte order mark, every cell quoted. Text that a spreadsheet could run as a
    formula starts with an apostrophe. Each export is recorded in the log. You can start 10 exports a minute.
    """
    return _export(principal, criteria, "csv")


def _export(principal: Principal, criteria: dict[str, Any], form: Format) -> Response:
    filters = Filters(workspace=principal.workspace, **criteria)
    # The event that records the export has them.
    secret = [name for name, value in filters.as_written().items() if resembles_key(value)]
    if secret:
        message = "This looks like an API key. The log never contains keys: look it up, or use its ID."
        errors = [{"field": name, "message": message} for name in secret]
        return refuse(422, "Fix the fields in `errors` and send the request again.", errors=errors)
    return exported(principal, filters, form)
