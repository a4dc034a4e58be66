"""Whether the audit log is what it was: each entry against its chain, the checkpoints, and the ledger."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from services.audit.integrity.chain import CheckpointChain, SignedRanges
from services.audit.integrity.checkpoint import verified
from services.audit.integrity.comparison import records_between
from services.audit.integrity.findings import Finding, Findings, Kind
from services.audit.integrity.signed_note import NoteError, PublicKey
from services.audit.log.entry import GENESIS, Entry, canonical, entry_of, record_of
from services.audit.log.store import AuditLog, Numbered
from shared.eventstore.envelope import Record
from shared.eventstore.events import AuditChecked, AuditFinding
from shared.eventstore.ledger import Ledger

_PAGE = 1000


class Trust(NamedTuple):
    """What the log is held against: who signs, and the last checkpoint that they say they signed."""

    public_key: PublicKey
    anchor: bytes | None


@dataclass
class Result(Findings):
    """What a check found. That the log is behind is no fault."""

    entries: int = 0  # how many were looked at
    checkpoints: int = 0
    ledger_position: int = 0
    log_position: int = 0

    @property
    def behind(self) -> int:
        """How many events of the ledger have no entry yet."""
        return max(self.ledger_position - self.log_position, 0)


def check(log: AuditLog, ledger: Ledger, trust: Trust, progress: Callable[[int, int], None]) -> Result:
    """Goes through the whole log. `progress` is told how many entries are done, and of how many.

    `trust` was read before. A log that is being appended to meanwhile is checked up to where it was at the
    beginning. Raises AuditDatabaseError, redis.RedisError.
    """
    # In this order an honest log holds all that was vouched for, and the ledger all that the log holds.
    checkpoints = log.checkpoints()
    end = log.last().position
    head = ledger.head().position
    result = Result(checkpoints=len(checkpoints), ledger_position=head, log_position=end)
    vouchers = _vouchers(checkpoints, trust, result)
    walk = _Walk(result, vouchers)
    with closing(records_between(ledger, 0, end)) as records:
        for entry, record in _side_by_side(log.walk(end), records):
            walk.look(entry, record)
            if entry is not None and result.entries % _PAGE == 0:
                progress(result.entries, end)
    progress(result.entries, end)
    vouchers.end(end)
    return result


class _Walk:
    """Goes along the positions, with what the log, the ledger and the checkpoints have there."""

    def __init__(self, result: Result, vouchers: SignedRanges) -> None:
        self._result = result
        self._vouchers = vouchers
        self._previous_hash: bytes | None = GENESIS  # None if it is not known
        self._position = 0

    def look(self, entry: Entry | None, record: Record | None) -> None:
        """The next position: what the log has there, and what the ledger has."""
        position = entry.position if entry else record.position if record else 0
        if position > self._position + 1:
            self._miss(position)
        self._position = max(position, 0)
        if entry is None:
            detail = "the ledger has an event here, and the log has no entry"
            self._result.add(Finding(Kind.MISSING, position, detail))
            self._previous_hash = None
            return
        self._result.entries += 1
        if not (record and self._previous_hash and _is_sound(entry, record, self._previous_hash)):
            self._find(entry, record)
        else:
            self._previous_hash = entry.entry_hash
        if position >= self._vouchers.next > 0:
            self._vouchers.look(position, self._previous_hash)

    def _find(self, entry: Entry, record: Record | None) -> None:
        """What is wrong with an entry, if anything is."""
        finding = _fault(entry, record, self._previous_hash, self._result.ledger_position)
        if finding is not None:
            self._result.add(finding)
        # Behind a fault the chain goes on from what the next entry itself says: one fault, one finding.
        sound = finding is None or finding.kind is Kind.LEDGER_SHORTER
        self._previous_hash = entry.entry_hash if sound else None

    def _miss(self, position: int) -> None:
        first = self._position + 1
        detail = f"neither the log nor the ledger has anything here, up to position {position}"
        self._result.add(Finding(Kind.MISSING, first, detail), position - first)
        self._previous_hash = None


def _vouchers(checkpoints: list[Numbered], trust: Trust, findings: Findings) -> SignedRanges:
    """The checkpoints that vouch for something; what is wrong with the others is added to the findings."""
    chain, vouchers = CheckpointChain(trust.public_key, findings), SignedRanges(findings)
    good = set()
    for each in checkpoints:
        if checkpoint := chain.follow(*each):
            vouchers.expect(checkpoint)
            good.add(each)
    if trust.anchor is not None:
        _hold_against(trust.anchor, trust.public_key, chain, good)
    return vouchers


def _hold_against(anchor: bytes, public_key: PublicKey, chain: CheckpointChain, good: set[Numbered]) -> None:
    try:
        sequence = verified(anchor, public_key).sequence
    except NoteError as error:
        chain.refuse(chain.reached, f"the last one that was signed, as it is kept beside the key: {error}")
        return
    chain.end(sequence)
    if any(each.sequence == sequence and each.note != anchor for each in good):
        chain.refuse(sequence, f"checkpoint {sequence}: another was signed")


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


def _is_sound(entry: Entry, record: Record, previous_hash: bytes) -> bool:
    """Whether an entry is all that it should be, in its place of the chain."""
    sealed = canonical(record)
    return entry == (
        record.position,
        record.at,
        sealed,
        previous_hash,
        sha256(previous_hash + sealed).digest(),
    )


def _fault(entry: Entry, record: Record | None, previous_hash: bytes | None, head: int) -> Finding | None:
    """What is wrong with an entry. `previous_hash`: None if it is not known."""
    if previous_hash is None:
        previous_hash = entry.previous_hash if isinstance(entry.previous_hash, bytes) else GENESIS
    if record is not None and _is_sound(entry, record, previous_hash):
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


def _without_event(entry: Entry, head: int, own_fault: Finding | None) -> Finding:
    if entry.position > head and own_fault is None:
        detail = f"the ledger ends at {head}: it came back from an old copy, or this was added to the log"
        return Finding(Kind.LEDGER_SHORTER, entry.position, detail)
    detail = "the ledger has no event here" + (f"; {own_fault.detail}" if own_fault else "")
    return Finding(Kind.EXTRA, entry.position, detail)


def as_fact(result: Result) -> AuditChecked:
    """What the ledger keeps of it."""
    return AuditChecked(
        entries=result.entries,
        checkpoints=result.checkpoints,
        position=result.log_position,
        findings=tuple(
            AuditFinding(
                kind=finding.kind.value,
                count=result.counts[finding.kind],
                position=finding.position,
                detail=finding.detail,
            )
            for finding in result.findings
        ),
    )
