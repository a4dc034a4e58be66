"""The calls that give the audit log as a file. They only translate: who, what, stream it."""

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
    """The description of an answer."""
    content = {MEDIA[form]: {"schema": {"type": "string"}, "example": _EXAMPLES[form]}}
    return {"responses": {200: {"description": "The file, streamed.", "content": content}, 422: {}}}


@blueprint.route("/entries.jsonl", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(FiltersSchema, location="query")
@blueprint.doc(**_as_file("jsonl"))
def export_jsonl(principal: Principal, criteria: dict[str, Any]) -> Response:
    """Export the audit log of your workspace, as JSON lines that prove themselves

    Oldest first. The last line is a signed trailer: how many entries, where they end, and the SHA-256 of all
    before it. `keyledger audit check --file` holds the file against it, with the public key alone. Without it
    the file is not whole. Each export is recorded in the log with your filters, so what resembles an API key
    is refused. You can start 10 exports a minute.
    """
    return _export(principal, criteria, "jsonl")


@blueprint.route("/entries.csv", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(FiltersSchema, location="query")
@blueprint.doc(**_as_file("csv"))
def export_csv(principal: Principal, criteria: dict[str, Any]) -> Response:
    """Export the audit log of your workspace, for a spreadsheet

    Oldest first, UTF-8 with a byte order mark, every cell quoted. An apostrophe goes before any text that a
    spreadsheet could take for a formula. Each export
    is recorded in the log. You can start 10 exports a minute.
    """
    return _export(principal, criteria, "csv")


def _export(principal: Principal, criteria: dict[str, Any], form: Format) -> Response:
    filters = Filters(workspace=principal.workspace, **criteria)
    # They are kept in the event that tells of the export.
    secret = [name for name, value in filters.as_written().items() if resembles_key(value)]
    if secret:
        message = "This looks like an API key, which the log never holds. Look it up, or use its id."
        errors = [{"field": name, "message": message} for name in secret]
        return refuse(422, "Mend the fields that `errors` names and send the request again.", errors=errors)
    return exported(principal, filters, form)
