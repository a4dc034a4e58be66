"""Verifies the audit log: each entry against the chain, the checkpoints and the ledger."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from services.audit.integrity.chain import CheckpointChain, SignedRanges
from services.audit.integrity.checkpoint import verified
from services.audit.integrity.comparison import records_between
from services.audit.integrity.findings import Finding, Findings, Kind
from services.audit.integrity.signed_note import NoteError, PublicKey
from services.audit.log.entry import GENESIS, Entry, entry_of, record_of
from services.audit.log.store import AuditLog, StoredCheckpoint
from shared.eventstore.envelope import Record
from shared.eventstore.events import AuditChecked, AuditFinding
from shared.eventstore.ledger import Ledger

_PAGE = 1000


class Trust(NamedTuple):
    """The key that signs, and the last checkpoint that it is known to have signed."""

    public_key: PublicKey
    anchor: bytes | None


@dataclass
class Result(Findings):
    """The result of a check. A log that is behind the ledger is no finding."""

    entries: int = 0  # how many were checked
    checkpoints: int = 0
    ledger_position: int = 0
    log_position: int = 0

    @property
    def behind(self) -> int:
        """How many events of the ledger have no entry yet."""
        return max(self.ledger_position - self.log_position, 0)


def check(log: AuditLog, ledger: Ledger, trust: Trust, progress: Callable[[int, int], None]) -> Result:
    """Checks the whole log, up to where it ends now. Read `trust` before.

    `progress` gets the number of entries that are checked, and of all. Raises AuditDatabaseError,
    redis.RedisError.
    """
    # Read in this order, an intact log has all that was signed, and the ledger all that the log has.
    checkpoints = log.checkpoints()
    end = log.last().position
    head = ledger.head().position
    result = Result(checkpoints=len(checkpoints), ledger_position=head, log_position=end)
    signed = _signed_ranges(checkpoints, trust, result)
    walk = _Walk(result, signed)
    with closing(records_between(ledger, 0, end)) as records:
        for entry, record in _side_by_side(log.walk(end), records):
            walk.look(entry, record)
            if entry is not None and result.entries % _PAGE == 0:
                progress(result.entries, end)
    progress(result.entries, end)
    signed.end(end)
    return result


class _Walk:
    """Checks position by position what the log, the ledger and the checkpoints have there."""

    def __init__(self, result: Result, signed: SignedRanges) -> None:
        self._result = result
        self._signed = signed
        self._previous_hash: bytes | None = GENESIS  # None if it isn't known
        self._position = 0

    def look(self, entry: Entry | None, record: Record | None) -> None:
        """Checks the next position: the log's entry and the ledger's event there, if any."""
        position = entry.position if entry else record.position if record else 0
        if position > self._position + 1:
            self._find_gap(position)
        self._position = max(position, 0)
        if entry is None:
            detail = "the ledger has an event here, but the log has no entry"
            self._result.add(Finding(Kind.MISSING, position, detail))
            self._previous_hash = None
            return
        self._result.entries += 1
        if not (record and self._previous_hash and entry == entry_of(record, self._previous_hash)):
            self._find(entry, record)
        else:
            self._previous_hash = entry.entry_hash
        if position >= self._signed.next > 0:
            self._signed.look(position, self._previous_hash)

    def _find(self, entry: Entry, record: Record | None) -> None:
        """Adds what is wrong with an entry, if anything is."""
        finding = _fault(entry, record, self._previous_hash, self._result.ledger_position)
        if finding is not None:
            self._result.add(finding)
        # After a fault, the chain continues with the hash that the next entry has: one fault, one finding.
        is_intact = finding is None or finding.kind is Kind.LEDGER_SHORTER
        self._previous_hash = entry.entry_hash if is_intact else None

    def _find_gap(self, position: int) -> None:
        first = self._position + 1
        detail = f"neither the log nor the ledger has anything from here to position {position}"
        self._result.add(Finding(Kind.MISSING, first, detail), position - first)
        self._previous_hash = None


def _signed_ranges(checkpoints: list[StoredCheckpoint], trust: Trust, findings: Findings) -> SignedRanges:
    """The valid checkpoints. What is wrong with the others is added to the findings."""
    chain, signed = CheckpointChain(trust.public_key, findings), SignedRanges(findings)
    valid = set()
    for each in checkpoints:
        if checkpoint := chain.follow(*each):
            signed.expect(checkpoint)
            valid.add(each)
    if trust.anchor is not None:
        _compare_with_anchor(trust.anchor, trust.public_key, chain, valid)
    return signed


def _compare_with_anchor(
    anchor: bytes, public_key: PublicKey, chain: CheckpointChain, valid: set[StoredCheckpoint]
) -> None:
    try:
        sequence = verified(anchor, public_key).sequence
    except NoteError as error:
        chain.refuse(chain.reached, f"the last one that was signed, from the file next to the key: {error}")
        return
    chain.end(sequence)
    if any(each.sequence == sequence and each.note != anchor for each in valid):
        chain.refuse(sequence, f"checkpoint {sequence}: another was signed")


def _side_by_side(
    entries: Iterator[Entry], records: Iterator[Record]
) -> Iterator[tuple[Entry | None, Record | None]]:
    """Entries and events of the same position; None if one of them is missing."""
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


def _fault(entry: Entry, record: Record | None, previous_hash: bytes | None, head: int) -> Finding | None:
    """What is wrong with an entry. `previous_hash`: None if it isn't known."""
    if previous_hash is None:
        previous_hash = entry.previous_hash if isinstance(entry.previous_hash, bytes) else GENESIS
    if record is not None and entry == entry_of(record, previous_hash):
        return None
    own_fault = _own_fault(entry, previous_hash)
    if record is None:
        return _without_event(entry, head, own_fault)
    return own_fault or Finding(Kind.CHANGED, entry.position, "the ledger has another event here")


def _own_fault(entry: Entry, previous_hash: bytes) -> Finding | None:
    """What is wrong with an entry itself, in its place in the chain."""
    own = record_of(entry.record)
    if own is None:
        return Finding(Kind.CHANGED, entry.position, "its record doesn't have the form that the log writes")
    if own.position != entry.position:
        return Finding(Kind.OUT_OF_ORDER, entry.position, f"it is the entry of position {own.position}")
    expected = entry_of(own, previous_hash)
    different = [name for name in Entry._fields if getattr(entry, name) != getattr(expected, name)]
    if not different:
        return None
    return Finding(
        Kind.CHANGED, entry.position, f"doesn't match its record and the chain: {', '.join(different)}"
    )


def _without_event(entry: Entry, head: int, own_fault: Finding | None) -> Finding:
    if entry.position > head and own_fault is None:
        detail = f"the ledger ends at {head}: an old copy was restored, or this was added to the log"
        return Finding(Kind.LEDGER_SHORTER, entry.position, detail)
    detail = "the ledger has no event here" + (f"; {own_fault.detail}" if own_fault else "")
    return Finding(Kind.EXTRA, entry.position, detail)


def payload_of(result: Result) -> AuditChecked:
    """The event that records a check in the ledger."""
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
