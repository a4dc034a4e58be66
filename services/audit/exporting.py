"""Takes entries of the audit log away. Who does so is told to the ledger first, or it is not done."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Literal, NamedTuple, TypeAlias

from services.audit.audit_log import AuditLog
from services.audit.checkpoints import unverified
from services.audit.entries import Entry
from services.audit.export import WHOLE, ExportError, lines, scope_of
from services.audit.notes import NoteError
from services.audit.search import Filters
from services.audit.signing import Signer
from services.audit.spreadsheet import csv_lines
from services.audit.vouching import Notary
from shared.events import AUDIT_SUBJECT, AuditExported, Request
from shared.identity import AUDIT_READ, Principal, authorize
from shared.journal import Journal
from shared.timestamps import rfc3339

Format: TypeAlias = Literal["jsonl", "csv"]

_PAGE = 1000
_SUBJECT = f"{AUDIT_SUBJECT}exports"


class Export(NamedTuple):
    """A file, line by line, and how far the log went when it was begun."""

    position: int
    lines: Iterator[bytes]


@dataclass(frozen=True)
class Exports:
    """Exports of the audit log: of a workspace by filters, or of the whole log."""

    log: AuditLog
    journal: Journal
    signer: Signer
    notary: Notary
    now_ms: Callable[[], int]

    def some(self, principal: Principal, filters: Filters, form: Format, request: Request) -> Export:
        """The entries of the caller's workspace that match.

        Raises ForbiddenError, TooManyKeysError, SigningError, AuditDatabaseError, VersionConflictError,
        NotReplicatedError, redis.RedisError; while the lines are read, AuditDatabaseError and ExportError.
        """
        authorize(principal, AUDIT_READ, records=True)
        asked = asked_by(filters)
        _ = self.signer.public_key  # what cannot be done is found out before it is told
        self.log.search.page(filters, 1)
        position = self.log.last().position
        self._tell(principal, form, asked, position, request)
        entries = takewhile(lambda entry: entry.position <= position, self.log.search.ascending(filters))
        if form == "csv":
            return Export(position, csv_lines(entries))
        scope = scope_of(filters.workspace, asked)
        return Export(position, lines(entries, [], scope, self.now_ms(), self.signer.sign))

    def whole(
        self, operator: Principal, form: Format, request: Request, progress: Callable[[int, int], None]
    ) -> Export:
        """All entries of all workspaces, with a checkpoint of the last. Only for the command line.

        `progress` is told how many entries are done, and of how many. Raises the same.
        """
        note = self.notary.vouch()
        position = unverified(note).position if note else 0
        self._tell(operator, form, {"scope": WHOLE}, position, request)
        entries = _watched(self.log.walk(position), position, progress)
        if form == "csv":
            return Export(position, csv_lines(entries))
        vouchers = [each for each in self._vouchers() if each[0] <= position]
        return Export(position, lines(entries, vouchers, WHOLE, self.now_ms(), self.signer.sign))

    def _vouchers(self) -> Iterator[tuple[int, bytes]]:
        for sequence, note in self.log.checkpoints():
            try:
                yield unverified(note).position, note
            except NoteError as error:
                raise ExportError(
                    f"Checkpoint {sequence} is damaged: `keyledger audit check` says more."
                ) from error

    def _tell(
        self, principal: Principal, form: Format, asked: dict[str, str], position: int, request: Request
    ) -> None:
        fact = AuditExported(format=form, filters=asked, position=position)
        self.journal.tell(
            fact, subject=_SUBJECT, workspace=principal.workspace, actor=principal.actor, request=request
        )


def asked_by(filters: Filters) -> dict[str, str]:
    """What was asked for, by name, as a caller writes it."""
    asked = {name: value for name, value in asdict(filters).items() if value is not None}
    del asked["workspace"]
    return {name: rfc3339(value) if isinstance(value, int) else value for name, value in asked.items()}


def _watched(entries: Iterable[Entry], total: int, progress: Callable[[int, int], None]) -> Iterator[Entry]:
    for done, entry in enumerate(entries, 1):
        yield entry
        if done % _PAGE == 0 or done == total:
            progress(done, total)
