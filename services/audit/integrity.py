"""Whether the audit log is what it was: each entry against its chain, its own record, and the ledger."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from services.audit.audit_log import AuditLog
from services.audit.entries import GENESIS, Entry, entry_of, record_of
from shared.events import Record
from shared.ledger import Ledger

_PAGE = 1000


class Kind(StrEnum):
    """What can be wrong."""

    CHANGED = "changed"  # an entry is not what its record, the chain or the ledger says
    MISSING = "missing"  # an event of the ledger has no entry, though later ones have
    EXTRA = "extra"  # an entry has no event in the ledger
    OUT_OF_ORDER = "out of order"  # an entry stands at the position of another
    LEDGER_SHORTER = "ledger shorter"  # good entries lie behind the ledger's end: an old copy of it came back


class Finding(NamedTuple):
    """What is wrong at a position, in words."""

    kind: Kind
    position: int
    detail: str


@dataclass
class Result:
    """What a check found. That the log is behind is no fault."""

    entries: int = 0  # how many were looked at
    ledger_position: int = 0
    log_position: int = 0
    counts: dict[Kind, int] = field(default_factory=dict)
    first: dict[Kind, Finding] = field(default_factory=dict)  # of each kind the one at fault first

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts

    @property
    def behind(self) -> int:
        """How many events of the ledger have no entry yet."""
        return max(self.ledger_position - self.log_position, 0)

    @property
    def findings(self) -> list[Finding]:
        """The first of each kind, by position."""
        return sorted(self.first.values(), key=lambda finding: finding.position)

    def add(self, finding: Finding) -> None:
        """Counts it, and keeps it if it is the first of its kind."""
        self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
        self.first.setdefault(finding.kind, finding)


def check(log: AuditLog, ledger: Ledger, progress: Callable[[int, int], None]) -> Result:
    """Goes through the whole log. `progress` is told how many entries are done, and of how many.

    A log that is being appended to meanwhile is checked up to where it was at the beginning.
    Raises AuditDatabaseError, redis.RedisError.
    """
    # The log's end is read first: of an honest log, the ledger then holds all of it.
    end = log.last().position
    head = ledger.head().position
    result = Result(ledger_position=head, log_position=end)
    previous_hash: bytes | None = GENESIS
    for entry, record in _side_by_side(log.walk(end), _records(ledger, end)):
        finding = _fault(entry, record, previous_hash, head)
        if finding is not None:
            result.add(finding)
        # Behind a fault the chain goes on from what the next entry itself says: one fault, one finding.
        sound = finding is None or finding.kind is Kind.LEDGER_SHORTER
        previous_hash = entry.entry_hash if entry and sound else None
        result.entries += entry is not None
        if result.entries % _PAGE == 0:
            progress(result.entries, end)
    progress(result.entries, end)
    return result


def _records(ledger: Ledger, until: int) -> Iterator[Record]:
    after = 0
    while page := ledger.read(after, _PAGE):
        for record in page:
            if record.position > until:
                return
            yield record
        after = page[-1].position


def _side_by_side(
    entries: Iterator[Entry], records: Iterator[Record]
) -> Iterator[tuple[Entry | None, Record | None]]:
    """Entries and events of the same position; None where one of them is not there."""
    entry, record = next(entries, None), next(records, None)
    while entry or record:
        if record is None or (entry and entry.position < record.position):
            yield entry, None
            entry = next(entries, None)
        elif entry is None or entry.position > record.position:
            yield None, record
            record = next(records, None)
        else:
            yield entry, record
            entry, record = next(entries, None), next(records, None)


def _fault(
    entry: Entry | None, record: Record | None, previous_hash: bytes | None, head: int
) -> Finding | None:
    """What is wrong with an entry, or with there being none. `previous_hash`: None if it is not known."""
    if entry is None:
        position = record.position if record else 0
        return Finding(Kind.MISSING, position, "the ledger has an event here, and the log has no entry")
    if previous_hash is None:
        previous_hash = _hash(entry.previous_hash)
    if record is not None and entry == entry_of(record, previous_hash):
        return None
    own_fault = _own_fault(entry, previous_hash)
    if record is None:
        return _without_event(entry, head, own_fault)
    return own_fault or Finding(Kind.CHANGED, entry.position, "the event in the ledger is another")


def _own_fault(entry: Entry, previous_hash: bytes) -> Finding | None:
    """What is wrong with an entry by itself, in its place of the chain."""
    own = record_of(entry.record)
    if own is None:
        return Finding(Kind.CHANGED, entry.position, "its record is not of the form that the log writes")
    if own.position != entry.position:
        return Finding(Kind.OUT_OF_ORDER, entry.position, f"it is the entry of position {own.position}")
    expected = entry_of(own, previous_hash)
    different = [name for name in Entry._fields if getattr(entry, name) != getattr(expected, name)]
    if not different:
        return None
    return Finding(
        Kind.CHANGED, entry.position, f"not what its record and the chain say: {', '.join(different)}"
    )


def _hash(value: object) -> bytes:
    """What stands in the place of a hash; any other, if that is none."""
    return value if isinstance(value, bytes) else GENESIS


def _without_event(entry: Entry, head: int, own_fault: Finding | None) -> Finding:
    if entry.position > head and own_fault is None:
        detail = f"the ledger ends at {head}: it came back from an old copy, or this was added to the log"
        return Finding(Kind.LEDGER_SHORTER, entry.position, detail)
    detail = "the ledger has no event here" + (f"; {own_fault.detail}" if own_fault else "")
    return Finding(Kind.EXTRA, entry.position, detail)
