"""Goes along the checkpoints, and along the entries that they vouch for. Pure."""

from collections import deque

from services.audit.integrity.checkpoint import NO_CHECKPOINT, SignedCheckpoint, note_hash, verified
from services.audit.integrity.findings import Finding, Findings, Kind
from services.audit.integrity.signed_note import NoteError, PublicKey


class CheckpointChain:
    """The checkpoints one after the other. Behind a fault it goes on from what is there: one finding each."""

    def __init__(self, public_key: PublicKey, findings: Findings) -> None:
        self._public_key = public_key
        self._findings = findings
        self._last: SignedCheckpoint | None = None  # that vouches for something
        self._before: bytes | None = NO_CHECKPOINT  # the hash of the note before; None if it is not known
        self.reached = 0  # the sequence number

    def follow(self, sequence: int, note: object) -> SignedCheckpoint | None:
        """The next one that is there, if it vouches for something."""
        try:
            checkpoint = self._followed(sequence, note)
        except NoteError as error:
            self.refuse(sequence, f"checkpoint {sequence}: {error}")
            self._before = None
            # It stands in the place of one that is gone, if there is one.
            self.reached += sequence == self.reached + 1
            return None
        self.end(sequence - 1)
        self._last, self.reached = checkpoint, sequence
        self._before = note_hash(note) if isinstance(note, bytes) else None
        return checkpoint

    def refuse(self, sequence: int, detail: str) -> None:
        """Finds one forged."""
        self._findings.add(Finding(Kind.CHECKPOINT_FORGED, sequence, detail))

    def end(self, sequence: int) -> None:
        """Misses those that are not there, up to one that was signed."""
        if sequence > self.reached:
            first = self.reached + 1
            detail = f"there is no checkpoint {first}, though one up to {sequence} was signed"
            self._findings.add(Finding(Kind.CHECKPOINT_MISSING, first, detail), sequence - self.reached)
            self.reached, self._before = sequence, None

    def _followed(self, sequence: int, note: object) -> SignedCheckpoint:
        if not isinstance(note, bytes):
            raise NoteError("it is no note")
        found = verified(note, self._public_key)
        if found.sequence != sequence:
            raise NoteError(f"it is checkpoint {found.sequence}")
        if sequence <= self.reached:
            raise NoteError(f"it comes after checkpoint {self.reached}")
        before = self._before if sequence == self.reached + 1 else None
        if before is not None and found.previous != before:
            raise NoteError("it does not follow the one before")
        last = self._last
        if last and (found.position < last.position or found.time < last.time):
            raise NoteError("it vouches for less than the one before")
        return found


class SignedRanges:
    """What checkpoints vouch for, held against the entries as they come."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._waiting: deque[SignedCheckpoint] = deque()
        self._confirmed = 0  # up to which position a checkpoint was right
        self.next = 0  # the position that is vouched for next; 0 if none is

    def expect(self, checkpoint: SignedCheckpoint) -> None:
        """Takes up a checkpoint, in order."""
        self._waiting.append(checkpoint)
        self.next = self._waiting[0].position

    def look(self, position: int, entry_hash: bytes | None) -> None:
        """The next entry, or the same again; None if it is at fault already, and so says nothing new."""
        while self._waiting and self._waiting[0].position <= position:
            checkpoint = self._waiting.popleft()
            if checkpoint.position < position or entry_hash is None:
                continue
            if checkpoint.chain_hash == entry_hash:
                self._confirmed = position
            else:
                detail = (
                    f"checkpoint {checkpoint.sequence} vouches for another chain up to here, "
                    f"which was changed behind position {self._confirmed}"
                )
                self._findings.add(Finding(Kind.REWRITTEN, position, detail))
        self.next = self._waiting[0].position if self._waiting else 0

    def end(self, position: int) -> None:
        """What is vouched for, and lies behind the last entry."""
        if self._waiting:
            last = self._waiting[-1]
            detail = f"checkpoint {last.sequence} vouches for entries up to {last.position}"
            self._findings.add(Finding(Kind.CUT_OFF, position + 1, detail), last.position - position)
