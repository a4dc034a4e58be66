"""Compares entries of the audit log with the ledger and with the entries next to them."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Literal, NamedTuple, TypeAlias

from services.audit.alarms import Alarms
from services.audit.audit_log import AuditLog
from services.audit.entries import GENESIS, Entry, chain, entry_of
from services.audit.findings import Finding, Kind
from shared.errors import AdvisedError
from shared.events import Record
from shared.ledger import Ledger

Integrity: TypeAlias = Literal["ok", "mismatch"]

_BATCH = 500
_PAGE = 1_000


class MismatchError(AdvisedError):
    """An entry isn't the one that the ledger and the chain call for."""

    def __init__(self, position: int) -> None:
        super().__init__(
            f"The entry at position {position} doesn't match the ledger or the entries next to it. It isn't "
            "signed or exported; run `keyledger audit check` to see what was changed."
        )
        self.position = position


class Compared(NamedTuple):
    """An entry, and whether it matches."""

    entry: Entry
    integrity: Integrity


@dataclass(frozen=True)
class Comparison:
    """Tells entries that match from others. Every method raises redis.RedisError and AuditDatabaseError."""

    log: AuditLog
    ledger: Ledger
    alarms: Alarms

    def compared(self, entries: Sequence[Entry]) -> list[Compared]:
        """The entries, each with the result."""
        wrong = self._mismatches(entries)
        return [Compared(entry, "mismatch" if entry.position in wrong else "ok") for entry in entries]

    def matching(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The same entries, each once it was compared. Raises MismatchError, and an alarm."""
        left = iter(entries)
        while batch := list(islice(left, _BATCH)):
            if wrong := self._mismatches(batch):
                self._refuse(min(wrong))
            yield from batch

    def chain(self, after: int, previous_hash: bytes, until: int) -> Iterator[Entry]:
        """All entries between two positions, in order, each once it was compared.

        `previous_hash` is that of the entry `after`. Raises MismatchError, and an alarm.
        """
        with closing(records_between(self.ledger, after, until)) as records:
            expected = chain(records, previous_hash)
            for entry, wanted in zip_longest(self.log.walk(until, after), expected):
                if entry is None or entry != wanted:
                    self._refuse(min(each.position for each in (entry, wanted) if each))
                yield entry

    def _mismatches(self, entries: Sequence[Entry]) -> set[int]:
        positions = [entry.position for entry in entries]
        records = {record.position: record for record in self.ledger.at(positions)}
        around = {near for position in positions for near in (position - 1, position + 1)}
        links = self.log.links(around)
        return {entry.position for entry in entries if not _fits(entry, records.get(entry.position), links)}

    def _refuse(self, position: int) -> None:
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
