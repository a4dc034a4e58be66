"""Signs checkpoints of the audit log, and stores them in the database, then next to the key.

The entries since the previous checkpoint are compared with the ledger before the next one is signed.
"""

from collections.abc import Callable

from services.audit.integrity.checkpoint import SignedCheckpoint, due, following, unverified, verified
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.signed_note import NoteError
from services.audit.integrity.signer import Signer, SigningError
from services.audit.log.entry import GENESIS
from services.audit.log.store import AuditLog, StoredCheckpoint


class Notary:
    """Signs checkpoints. Any number of processes can do so at once, and be killed at any point."""

    def __init__(self, comparison: Comparison, signer: Signer, now_ms: Callable[[], int]) -> None:
        self._comparison = comparison
        self._log = comparison.log
        self._signer = signer
        self._now_ms = now_ms

    def sign_checkpoint(self) -> bytes | None:
        """Signs a checkpoint unless the last one covers the whole log. Returns the last note, if any.

        Raises MismatchError, SigningError, AuditDatabaseError, redis.RedisError.
        """
        return self._sign(lambda *_: True)

    def sign_checkpoint_if_due(self) -> None:
        """Signs a checkpoint if enough entries were added or enough time has passed. Raises the same."""
        self._sign(lambda position, last: due(position, last, self._now_ms()))

    def _sign(self, wanted: Callable[[int, SignedCheckpoint | None], bool]) -> bytes | None:
        while True:
            # Read before the database, which has every checkpoint before it becomes the anchor.
            anchor = self._signer.anchor()
            last = self._log.last_checkpoint()
            before = _trusted(self._signer, last, anchor)
            newest = last.note if last else None
            end = self._log.last().position
            if end <= (before.position if before else 0) or not wanted(end, before):
                return newest
            note = self._signed(end, before, newest)
            if self._log.add_checkpoint(StoredCheckpoint(before.sequence + 1 if before else 1, note)):
                self._signer.keep(note)
                return note

    def _signed(self, end: int, before: SignedCheckpoint | None, newest: bytes | None) -> bytes:
        start, chain_hash = (before.position, before.chain_hash) if before else (0, GENESIS)
        for entry in self._comparison.chain(start, chain_hash, end):
            chain_hash = entry.entry_hash
        return self._signer.sign(following(end, chain_hash, before, newest, self._now_ms()).text)


def is_due(log: AuditLog, position: int, now: int) -> bool:
    """Whether a log that ends at a position needs another checkpoint. Raises AuditDatabaseError."""
    last = log.last_checkpoint()
    try:
        return due(position, unverified(last.note) if last else None, now)
    except NoteError:
        return False  # the notary reports it


def _trusted(signer: Signer, last: StoredCheckpoint | None, anchor: bytes | None) -> SignedCheckpoint | None:
    """The last checkpoint. Signing after one that was tampered with would hide the tampering."""
    try:
        before = verified(last.note, signer.public_key) if last else None
        anchored = verified(anchor, signer.public_key) if anchor else None
    except NoteError as error:
        raise _refused(signer, f"The last checkpoint isn't valid: {error}.") from error
    reached = before.sequence if before else 0
    if last and last.sequence != reached:
        raise _refused(signer, "The last checkpoint has another sequence number than its row.")
    if anchored and anchored.sequence > reached:
        raise _refused(signer, f"Checkpoint {anchored.sequence} was signed, but is missing.")
    if last and anchored and anchored.sequence == reached and anchor != last.note:
        raise _refused(signer, "The last checkpoint isn't the one that was signed.")
    return before


def _refused(signer: Signer, reason: str) -> SigningError:
    return SigningError(
        f"{reason} No more are signed until that is fixed: `keyledger audit check` shows more. If an old "
        f"copy of the audit log's database was restored on purpose, remove {signer.anchor_file}."
    )
