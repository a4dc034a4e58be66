"""Compares entries of the audit log with the ledger and with the entries next to them."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import NoReturn

from services.audit.integrity.alarms import Alarms
from services.audit.integrity.findings import Finding, Kind
from services.audit.log.audit_entry import AuditEntry, Integrity, parse_entry
from services.audit.log.entry import GENESIS, Entry, chain, entry_of, record_of
from services.audit.log.store import AuditLog
from shared.errors import UserFacingError
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import Ledger

_BATCH = 500
_PAGE = 1_000


class MismatchError(UserFacingError):
    """An entry doesn't match the ledger or the chain."""

    def __init__(self, position: int) -> None:
        super().__init__(
            f"The entry at position {position} doesn't match the ledger or the entries next to it. It isn't "
            "signed or exported; run `keyledger audit check` to see what was changed."
        )
        self.position = position


class LedgerShorterError(UserFacingError):
    """The ledger ends before the audit log does."""

    def __init__(self, head: int) -> None:
        super().__init__(
            f"The ledger ends at position {head}, before the audit log does: an old copy of the store was "
            "restored, or the audit log belongs to another. Nothing is signed or exported; run `keyledger "
            "audit check`."
        )


class SearchIndexError(UserFacingError):
    """The search index doesn't match the ledger, though the entry does."""

    def __init__(self, position: int) -> None:
        super().__init__(
            f"The audit log's search index doesn't match the ledger at position {position}. Nothing is "
            "exported by filters; run `keyledger audit reindex`."
        )


@dataclass(frozen=True)
class Comparison:
    """Finds entries that don't match. Every method raises redis.RedisError and AuditDatabaseError."""

    log: AuditLog
    ledger: Ledger
    alarms: Alarms

    def compared(self, entries: Sequence[Entry]) -> list[AuditEntry]:
        """The entries, each parsed and with the result: `ledger_shorter` if only its event is missing."""
        wrong = self._mismatches(entries)
        head = self.ledger.head().position if wrong else 0
        return [parse_entry(entry, _integrity(entry, wrong, head)) for entry in entries]

    def matching(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yields each entry once it was compared. Raises MismatchError, and an alarm."""
        left = iter(entries)
        while batch := list(islice(left, _BATCH)):
            if wrong := self._mismatches(batch):
                self._refuse(min(wrong))
            yield from batch

    def complete(self, entries: Iterable[Entry], positions: Iterable[int]) -> Iterator[Entry]:
        """Yields each entry once it was compared and is at the next of `positions`, in order.

        Raises MismatchError or LedgerShorterError, and an alarm; SearchIndexError.
        """
        pairs = zip_longest(self.matching(entries), positions)
        while batch := list(islice(pairs, _BATCH)):
            for entry, position in batch:
                if entry is None or entry.position != position:
                    self._refuse_list(entry.position if entry else None, position)
            yield from (entry for entry, _ in batch if entry)

    def _refuse_list(self, found: int | None, wanted: int | None) -> NoReturn:
        """Raises the error for an entry that was found at another position than the wanted one."""
        position = min(each for each in (found, wanted) if each is not None)
        entry = next(self.log.walk(position, position - 1), None)
        if entry is None:
            self.report_missing(position)
            raise MismatchError(position)
        if self._mismatches([entry]):
            self._refuse(position)
        raise SearchIndexError(position)

    def chain(self, after: int, previous_hash: bytes, until: int) -> Iterator[Entry]:
        """Yields the entries between two positions, in order, each once it was compared.

        `previous_hash` is that of the entry `after`. Raises MismatchError, and an alarm.
        """
        with closing(records_between(self.ledger, after, until)) as records:
            expected = chain(records, previous_hash)
            for entry, wanted in zip_longest(self.log.walk(until, after), expected):
                if entry is None or entry != wanted:
                    self._refuse(min(each.position for each in (entry, wanted) if each))
                yield entry

    def _mismatches(self, entries: Sequence[Entry]) -> dict[int, bool]:
        """By position, the entries that don't match; True if only the ledger's event is missing."""
        positions = [entry.position for entry in entries]
        records = {record.position: record for record in self.ledger.at(positions)}
        around = {near for position in positions for near in (position - 1, position + 1)}
        links = self.log.links(around)
        return {
            entry.position: entry.position not in records and _fits(entry, record_of(entry.record), links)
            for entry in entries
            if not _fits(entry, records.get(entry.position), links)
        }

    def report_missing(self, position: int) -> None:
        """Raises an alarm about an entry that is missing."""
        detail = "there was an entry here, but the log has none"
        self.alarms.report(Finding(Kind.MISSING, position, detail))

    def refuse_if_shorter(self, position: int) -> None:
        """Raises LedgerShorterError, and an alarm, if the ledger ends before a position."""
        head = self.ledger.head().position
        if position > head:
            detail = f"the ledger ends at {head}, before the log does: an old copy was restored"
            self.alarms.report(Finding(Kind.LEDGER_SHORTER, head + 1, detail))
            raise LedgerShorterError(head)

    def _refuse(self, position: int) -> NoReturn:
        self.refuse_if_shorter(position)
        detail = "it doesn't match the ledger or the entries next to it"
        self.alarms.report(Finding(Kind.CHANGED, position, detail))
        raise MismatchError(position)


def records_between(ledger: Ledger, after: int, until: int) -> Generator[Record, None, None]:
    """The events between two positions, in order."""
    with closing(ledger.pages(after, _PAGE)) as pages:
        for page in pages:
            if page[-1].position > until:
                yield from (record for record in page if record.position <= until)
                return
            yield from page


def _integrity(entry: Entry, wrong: Mapping[int, bool], head: int) -> Integrity:
    if entry.position not in wrong:
        return "ok"
    return "ledger_shorter" if wrong[entry.position] and entry.position > head else "mismatch"


def _fits(entry: Entry, record: Record | None, links: dict[int, tuple[object, object]]) -> bool:
    """Whether an entry is what the ledger has at its position, between the entries next to it.

    `links`: by position, the previous hash and the hash of the entry.
    """
    if record is None or not isinstance(entry.previous_hash, bytes):
        return False
    if entry != entry_of(record, entry.previous_hash):
        return False
    _, before = links.get(entry.position - 1, (None, GENESIS if entry.position == 1 else None))
    after, _ = links.get(entry.position + 1, (entry.entry_hash, None))
    return before == entry.previous_hash and after == entry.entry_hash
