"""Verifies the chain of checkpoints, and compares it with the entries that they cover. Pure."""

from collections import deque

from services.audit.integrity.checkpoint import NO_CHECKPOINT, SignedCheckpoint, note_hash, verified
from services.audit.integrity.findings import Finding, Findings, Kind
from services.audit.integrity.signed_note import NoteError, PublicKey


class CheckpointChain:
    """Verifies checkpoints in order. After a faulty one, it continues with the next: one finding each."""

    def __init__(self, public_key: PublicKey, findings: Findings) -> None:
        self._public_key = public_key
        self._findings = findings
        self._last: SignedCheckpoint | None = None  # the last valid one
        self._before: bytes | None = NO_CHECKPOINT  # the hash of the last note; None if it isn't known
        self.reached = 0  # the last sequence number

    def follow(self, sequence: int, note: object) -> SignedCheckpoint | None:
        """Verifies the next checkpoint, and returns it if it is valid."""
        try:
            checkpoint = self._followed(sequence, note)
        except NoteError as error:
            self.refuse(sequence, f"checkpoint {sequence}: {error}")
            self._before = None
            # If the next one is missing, this is in its place.
            self.reached += sequence == self.reached + 1
            return None
        self.end(sequence - 1)
        self._last, self.reached = checkpoint, sequence
        self._before = note_hash(note) if isinstance(note, bytes) else None
        return checkpoint

    def refuse(self, sequence: int, detail: str) -> None:
        """Adds the finding that a checkpoint was forged."""
        self._findings.add(Finding(Kind.CHECKPOINT_FORGED, sequence, detail))

    def end(self, sequence: int) -> None:
        """Finds the checkpoints that are missing up to one that was signed."""
        if sequence > self.reached:
            first = self.reached + 1
            detail = f"there is no checkpoint {first}, though one up to {sequence} was signed"
            self._findings.add(Finding(Kind.CHECKPOINT_MISSING, first, detail), sequence - self.reached)
            self.reached, self._before = sequence, None

    def _followed(self, sequence: int, note: object) -> SignedCheckpoint:
        if not isinstance(note, bytes):
            raise NoteError("it isn't a note")
        found = verified(note, self._public_key)
        if found.sequence != sequence:
            raise NoteError(f"it is checkpoint {found.sequence}")
        if sequence <= self.reached:
            raise NoteError(f"it comes after checkpoint {self.reached}")
        before = self._before if sequence == self.reached + 1 else None
        if before is not None and found.previous != before:
            raise NoteError("it doesn't follow the one before")
        last = self._last
        if last and (found.position < last.position or found.time < last.time):
            raise NoteError("it covers less than the one before")
        return found


class SignedRanges:
    """Compares the hashes that checkpoints signed with the entries, in order."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._waiting: deque[SignedCheckpoint] = deque()
        self._confirmed = 0  # the last position at which a checkpoint matched
        self.next = 0  # the next position of a checkpoint; 0 if there is none

    def expect(self, checkpoint: SignedCheckpoint) -> None:
        """Adds a checkpoint, in order."""
        self._waiting.append(checkpoint)
        self.next = self._waiting[0].position

    def look(self, position: int, entry_hash: bytes | None) -> None:
        """Compares the next entry, or the same again. Pass None as the hash if the entry is faulty."""
        while self._waiting and self._waiting[0].position <= position:
            checkpoint = self._waiting.popleft()
            if checkpoint.position < position or entry_hash is None:
                continue
            if checkpoint.chain_hash == entry_hash:
                self._confirmed = position
            else:
                detail = (
                    f"checkpoint {checkpoint.sequence} was signed for another chain up to here, "
                    f"which was changed after position {self._confirmed}"
                )
                self._findings.add(Finding(Kind.REWRITTEN, position, detail))
        self.next = self._waiting[0].position if self._waiting else 0

    def end(self, position: int) -> None:
        """Finds that entries are missing at the end, after the last position."""
        if self._waiting:
            last = self._waiting[-1]
            detail = f"checkpoint {last.sequence} covers entries up to {last.position}"
            self._findings.add(Finding(Kind.CUT_OFF, position + 1, detail), last.position - position)
