"""Exports the audit log. Each export is recorded in the ledger before its first line."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, NamedTuple, TypeAlias

from services.audit.export.csv import csv_lines
from services.audit.export.jsonl import WHOLE, ExportError, lines, scope_of
from services.audit.export.limit import ExportLimit
from services.audit.export.selection import selected
from services.audit.integrity.checkpoint import unverified
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.notary import Notary
from services.audit.integrity.signed_note import NoteError
from services.audit.integrity.signer import Signer
from services.audit.log.entry import GENESIS, Entry
from services.audit.log.filters import Filters
from shared.errors import UserFacingError
from shared.eventstore.command_handler import Journal
from shared.eventstore.envelope import Request
from shared.eventstore.events import AuditExported
from shared.eventstore.payload import AUDIT_SUBJECT
from shared.identity import AUDIT_READ, Principal, authorize
from shared.text.characters import escaped
from shared.text.key_detection import without_keys

Format: TypeAlias = Literal["jsonl", "csv"]

_PAGE = 1000
_FILTER_BYTES = 128  # of a filter's value, in the event
_TRUNCATED = "… (truncated)"
_SUBJECT = f"{AUDIT_SUBJECT}exports"


class AlarmError(UserFacingError):
    """There is an unacknowledged alarm about the audit log."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"There is an alarm about the audit log ({kind}), so nothing is exported by filters. Run "
            "`keyledger audit check`; docs/runbooks.md says when to acknowledge the alarm."
        )


class IndexingError(UserFacingError):
    """The search index is incomplete, so an export by filters would be incomplete too."""

    def __init__(self, indexed: int, position: int) -> None:
        super().__init__(
            f"The search index of the audit log is being built: {indexed:,} of {position:,} entries are "
            "indexed. Export again once it is complete. If it doesn't move, run `keyledger audit reindex`."
        )


class Export(NamedTuple):
    """The lines of a file, and the last position of the log when the export started."""

    position: int
    lines: Iterator[bytes]


@dataclass(frozen=True)
class Exports:
    """Exports a workspace's entries by filters, or the whole log.

    Each entry is compared with the ledger before it is exported.
    """

    comparison: Comparison
    journal: Journal
    signer: Signer
    notary: Notary
    limit: ExportLimit
    now_ms: Callable[[], int]

    def some(self, principal: Principal, filters: Filters, form: Format, request: Request) -> Export:
        """Exports the entries of the caller's workspace that match.

        The ledger's events are filtered too, so a missing entry is an error.

        Raises ForbiddenError, TooManyExportsError, TooManyKeysError, SigningError, AlarmError,
        IndexingError, AuditDatabaseError, VersionConflictError, NotReplicatedError, redis.RedisError; and,
        also while the lines are read, MismatchError, LedgerShorterError, SearchIndexError,
        AuditDatabaseError, ExportError and redis.RedisError.
        """
        authorize(principal, AUDIT_READ, records=True)
        self.limit.count(principal)
        asked = {name: escaped(without_keys(value)) for name, value in filters.as_written().items()}
        _ = self.signer.public_key  # raises SigningError before the export is recorded
        position = self._end()
        found = self.comparison.log.search.ascending(filters, position)
        wanted = selected(self.comparison.ledger, filters, position)
        entries = _started(self.comparison.complete(found, wanted))
        self._record(principal, form, asked, position, request)
        if form == "csv":
            return Export(position, csv_lines(entries))
        scope = scope_of(filters.workspace, asked)
        return Export(position, lines(entries, [], scope, self.now_ms(), self.signer.sign))

    def whole(
        self, operator: Principal, form: Format, request: Request, progress: Callable[[int, int], None]
    ) -> Export:
        """Exports all entries of all workspaces, with a checkpoint at the end. Only for the command line.

        `progress` gets the number of entries that are exported, and of all. Raises the same, but no
        TooManyExportsError.
        """
        note = self.notary.sign_checkpoint()
        position = unverified(note).position if note else 0
        entries = _started(self.comparison.chain(0, GENESIS, position))
        self._record(operator, form, {"scope": WHOLE}, position, request)
        reported = _reported(entries, position, progress)
        if form == "csv":
            return Export(position, csv_lines(reported))
        checkpoints = [each for each in self._checkpoints() if each[0] <= position]
        return Export(position, lines(reported, checkpoints, WHOLE, self.now_ms(), self.signer.sign))

    def _end(self) -> int:
        """The last position of the log. Raises an error if it can't be exported by filters."""
        comparison = self.comparison
        comparison.alarms.report_if_backwards()
        position = comparison.log.last().position
        comparison.refuse_if_shorter(position)
        if alarm := comparison.alarms.current():
            raise AlarmError(alarm.finding.kind)
        if (indexed := comparison.log.search.indexed()) < position:
            raise IndexingError(indexed, position)
        return position

    def _checkpoints(self) -> Iterator[tuple[int, bytes]]:
        for sequence, note in self.comparison.log.checkpoints():
            try:
                yield unverified(note).position, note
            except NoteError as error:
                raise ExportError(
                    f"Checkpoint {sequence} is damaged: `keyledger audit check` shows why."
                ) from error

    def _record(
        self, principal: Principal, form: Format, asked: dict[str, str], position: int, request: Request
    ) -> None:
        capped = {name: _capped(value) for name, value in asked.items()}
        payload = AuditExported(format=form, filters=capped, position=position)
        self.journal.record(
            payload, subject=_SUBJECT, workspace=principal.workspace, actor=principal.actor, request=request
        )


def _capped(value: str) -> str:
    """A filter's value for the event. Keys were removed before, so none is cut in half and missed."""
    encoded = value.encode()
    if len(encoded) <= _FILTER_BYTES:
        return value
    return encoded[: _FILTER_BYTES - len(_TRUNCATED.encode())].decode(errors="ignore") + _TRUNCATED


def _started(entries: Iterator[Entry]) -> Iterator[Entry]:
    """The same entries. An error at the first one is raised now."""
    return chain([*islice(entries, 1)], entries)


def _reported(entries: Iterable[Entry], total: int, progress: Callable[[int, int], None]) -> Iterator[Entry]:
    for done, entry in enumerate(entries, 1):
        yield entry
        if done % _PAGE == 0 or done == total:
            progress(done, total)
