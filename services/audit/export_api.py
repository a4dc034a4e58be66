"""The calls that give the audit log as a file. They only translate: who, what, stream it."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import structlog
from flask import Response
from marshmallow import post_load

from services.audit.audit_log import Filters, TooManyKeysError
from services.audit.exporting import Exports, Format, asked_by
from services.audit.schemas import QuerySchema
from services.audit.signing import SigningError
from shared.identity import AUDIT_READ, Principal
from shared.ledger import VersionConflictError
from shared.tokens import resembles_key
from shared.web.access import attached, bearer, origin
from shared.web.app import refuse
from shared.web.calls import Calls

_MEDIA = {"jsonl": "application/jsonl", "csv": "text/csv"}
_EXAMPLES = {
    "jsonl": '{"entry_hash":"9f86d08…","previous_hash":"60303ae…","record":{"at":1795460361123,…}}\n'
    '{"trailer":"keyledger audit export v1\\nscope {\\"workspace\\":\\"default\\"}\\n…"}\n',
    "csv": "position,time,event,key_id,…\r\n17,2026-11-23T18:59:21.123Z,KeyToggled,3fA9bQ27LmZ0,…\r\n",
}
_BROKEN_OFF = {
    "jsonl": b'{"broken_off":"This file is not whole. Export it again."}\n',
    "csv": b"THIS FILE BROKE OFF AND IS NOT WHOLE. EXPORT IT AGAIN.\r\n",
}

blueprint = Calls(
    "audit_export_api", __name__, url_prefix="/v1/audit", description="Exports of the audit log"
)

_log = structlog.get_logger(__name__)


class ExportQuerySchema(QuerySchema):
    """The filters of `GET /v1/audit/entries`."""

    class Meta:
        """An export is one page."""

        exclude = ("limit", "cursor")

    @post_load
    def _query(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The fields of Filters, without the workspace."""
        return data


def _as_file(form: str) -> dict[str, Any]:
    """The description of an answer."""
    content = {_MEDIA[form]: {"schema": {"type": "string"}, "example": _EXAMPLES[form]}}
    return {"responses": {200: {"description": "The file, streamed.", "content": content}, 422: {}}}


@blueprint.route("/entries.jsonl", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(ExportQuerySchema, location="query")
@blueprint.doc(**_as_file("jsonl"))
def export_jsonl(principal: Principal, criteria: dict[str, Any]) -> Response:
    """Export the audit log of your workspace, as JSON lines that prove themselves

    Oldest first. The last line is a signed trailer: how many entries, where they end, and the SHA-256 of all
    before it. `keyledger audit check --file` holds the file against it, with the public key alone. Without it
    the file is not whole. That you took it away is an event, too, which keeps your filters: what resembles an
    API key is refused.
    """
    return _export(principal, criteria, "jsonl")


@blueprint.route("/entries.csv", methods=["GET"])
@bearer(AUDIT_READ)
@blueprint.arguments(ExportQuerySchema, location="query")
@blueprint.doc(**_as_file("csv"))
def export_csv(principal: Principal, criteria: dict[str, Any]) -> Response:
    """Export the audit log of your workspace, for a spreadsheet

    Oldest first. A cell that a spreadsheet would take for a formula begins with an apostrophe. That you took
    it away is an event, too.
    """
    return _export(principal, criteria, "csv")


def _export(principal: Principal, criteria: dict[str, Any], form: Format) -> Response:
    filters = Filters(workspace=principal.workspace, **criteria)
    # They are kept in the event that tells of the export.
    secret = [name for name, value in asked_by(filters).items() if resembles_key(value)]
    if secret:
        message = "This looks like an API key, which the log never holds. Look it up, or use its id."
        errors = [{"field": name, "message": message} for name in secret]
        return refuse(422, "Mend the fields that `errors` names and send the request again.", errors=errors)
    export = attached(Exports).some(principal, filters, form, origin())
    # What fails before the first line is an error like any other.
    first = next(export.lines)
    response = Response(_told(chain([first], export.lines), form), content_type=_content_type(form))
    response.headers["Content-Disposition"] = f'attachment; filename="keyledger-audit.{form}"'
    return response


def _content_type(form: str) -> str:
    return f"{_MEDIA[form]}; charset=utf-8"


def _told(lines: Iterator[bytes], form: Format) -> Iterator[bytes]:
    """The same; what fails now is told in the file itself, for granian ends it as if it were whole."""
    try:
        yield from lines
    except Exception as error:
        _log.error("an export broke off", reason=str(error))
        yield _BROKEN_OFF[form]
        raise


@blueprint.errorhandler(TooManyKeysError)
def too_many_keys(error: TooManyKeysError) -> Response:
    """422: the name says too little."""
    errors = [{"field": "name", "message": str(error)}]
    return refuse(422, "Mend the fields that `errors` names and send the request again.", errors=errors)


@blueprint.errorhandler(SigningError)
def cannot_sign(error: SigningError) -> Response:
    """503: an export that nobody signs proves nothing."""
    _log.error("an export could not be signed", reason=str(error))
    return refuse(503, "The audit log's key cannot be used at the moment. Ask who runs Keyledger.")


@blueprint.errorhandler(VersionConflictError)
def cannot_tell(_: VersionConflictError) -> Response:
    """503: who took it away could not be told, so it was not given."""
    return refuse(503, "Too many take the audit log away at this moment. Try again.", {"Retry-After": "2"})
