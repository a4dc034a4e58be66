"""Streams an export as a response. If it fails midway, the file says so."""

from collections.abc import Iterator
from itertools import chain

import structlog
from flask import Blueprint, Response, request

from services.audit.export.limit import TooManyExportsError
from services.audit.export.service import AlarmError, Exports, Format, IndexingError
from services.audit.integrity.comparison import LedgerShorterError, MismatchError, SearchIndexError
from services.audit.integrity.signer import SigningError
from services.audit.log.filters import Filters
from shared.errors import UserFacingError
from shared.eventstore.ledger import VersionConflictError
from shared.identity import Principal
from shared.web.access import attached, origin
from shared.web.errors.handlers import refuse

MEDIA = {"jsonl": "application/jsonl", "csv": "text/csv"}
_BROKEN_OFF = {
    "jsonl": b'{"broken_off":"This file is not whole. Export it again."}\n',
    "csv": b'"THIS FILE BROKE OFF AND IS NOT WHOLE. EXPORT IT AGAIN."\r\n',
}

_log = structlog.get_logger(__name__)


def exported(principal: Principal, filters: Filters, form: Format) -> Response:
    """The file. Raises what Exports.some raises. A HEAD request gets the headers, and exports nothing."""
    if request.method == "HEAD":
        return _file(iter(()), form)
    export = attached(Exports).some(principal, filters, form, origin())
    # A failure before the first line is a normal error response.
    first = next(export.lines)
    return _file(_with_failure_marked(chain([first], export.lines), form), form)


def map_errors(blueprint: Blueprint) -> None:
    """Maps the errors of an export to responses."""
    blueprint.register_error_handler(TooManyExportsError, _limited)
    blueprint.register_error_handler(MismatchError, _mismatch)
    for error in (AlarmError, LedgerShorterError, SearchIndexError):
        blueprint.register_error_handler(error, _untrusted)
    blueprint.register_error_handler(IndexingError, _indexing)
    blueprint.register_error_handler(SigningError, _cannot_sign)
    blueprint.register_error_handler(VersionConflictError, _busy)


def _file(content: Iterator[bytes], form: Format) -> Response:
    response = Response(content, content_type=f"{MEDIA[form]}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="keyledger-audit.{form}"'
    return response


def _limited(error: TooManyExportsError) -> Response:
    return refuse("export_limit", str(error), {"Retry-After": str(error.retry_after)})


def _mismatch(error: MismatchError) -> Response:
    """503: entries that were tampered with aren't signed. The alarm has the position."""
    detail = f"The entry at position {error.position} was changed, so nothing was exported."
    return refuse("entry_changed", f"{detail} Ask the operator to run `keyledger audit check`.")


def _untrusted(error: UserFacingError) -> Response:
    """503: a log that may lack entries, or have others, isn't signed."""
    _log.error("an export was rejected", reason=str(error))
    return refuse(503, str(error))


def _indexing(error: IndexingError) -> Response:
    """503: entries that aren't indexed yet would be missing from the file."""
    return refuse(503, str(error), {"Retry-After": "10"})


def _with_failure_marked(lines: Iterator[bytes], form: Format) -> Iterator[bytes]:
    """The same lines. A failure is marked in the file itself, because granian ends it as if complete."""
    try:
        yield from lines
    except Exception as error:
        _log.error("an export failed midway", reason=str(error))
        yield _BROKEN_OFF[form]
        raise


def _cannot_sign(error: SigningError) -> Response:
    """503: an export that isn't signed can't be verified."""
    _log.error("an export could not be signed", reason=str(error))
    return refuse(503, "The audit log's signing key can't be used. Ask your operator.")


def _busy(_: VersionConflictError) -> Response:
    """503: the export couldn't be recorded in the ledger."""
    return refuse(503, "Too many exports in progress. Try again later.", {"Retry-After": "2"})
