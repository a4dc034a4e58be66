"""An export as the answer to a call or a form: streamed, and never broken off in silence."""

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
    """The file. Raises what Exports.some raises. HEAD gets the headers, and exports nothing."""
    if request.method == "HEAD":
        return _file(iter(()), form)
    export = attached(Exports).some(principal, filters, form, origin())
    # What fails before the first line is an error like any other.
    first = next(export.lines)
    return _file(_told(chain([first], export.lines), form), form)


def map_errors(blueprint: Blueprint) -> None:
    """What an export may fail of, in words."""
    blueprint.register_error_handler(TooManyExportsError, _too_many)
    blueprint.register_error_handler(MismatchError, _does_not_match)
    for error in (AlarmError, LedgerShorterError, SearchIndexError):
        blueprint.register_error_handler(error, _is_in_doubt)
    blueprint.register_error_handler(IndexingError, _is_indexing)
    blueprint.register_error_handler(SigningError, _cannot_sign)
    blueprint.register_error_handler(VersionConflictError, _cannot_tell)


def _file(content: Iterator[bytes], form: Format) -> Response:
    response = Response(content, content_type=f"{MEDIA[form]}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="keyledger-audit.{form}"'
    return response


def _too_many(error: TooManyExportsError) -> Response:
    """429."""
    return refuse("export_limit", str(error), {"Retry-After": str(error.retry_after)})


def _does_not_match(error: MismatchError) -> Response:
    """503: what was changed past Keyledger is not signed. The alarm says where."""
    detail = f"The entry at position {error.position} was changed, so nothing was exported."
    return refuse("entry_changed", f"{detail} Ask the operator to run `keyledger audit check`.")


def _is_in_doubt(error: UserFacingError) -> Response:
    """503: what may lack entries, or have others, is not signed."""
    _log.error("an export was refused", reason=str(error))
    return refuse(503, str(error))


def _is_indexing(error: IndexingError) -> Response:
    """503: entries that can't be found yet would be missing from the file."""
    return refuse(503, str(error), {"Retry-After": "10"})


def _told(lines: Iterator[bytes], form: Format) -> Iterator[bytes]:
    """The same; what fails now is told in the file itself, for granian ends it as if it were whole."""
    try:
        yield from lines
    except Exception as error:
        _log.error("an export broke off", reason=str(error))
        yield _BROKEN_OFF[form]
        raise


def _cannot_sign(error: SigningError) -> Response:
    """503: an export that nobody signs proves nothing."""
    _log.error("an export could not be signed", reason=str(error))
    return refuse(503, "The audit log's key can't be used at the moment. Ask your operator.")


def _cannot_tell(_: VersionConflictError) -> Response:
    """503: an export that cannot be recorded is not given."""
    return refuse(503, "Too many exports in progress. Try again later.", {"Retry-After": "2"})
