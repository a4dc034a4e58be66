"""Adds checkpoints to the audit log: in a transaction of the database, then beside the key."""

from collections.abc import Callable

from services.audit.audit_log import AuditLog, Numbered
from services.audit.checkpoints import Checkpoint, due, following, unverified, verified
from services.audit.entries import Entry
from services.audit.notes import NoteError
from services.audit.signing import Signer, SigningError


class Notary:
    """Vouches for the log. Any number of processes may do so at once, and be killed anywhere."""

    def __init__(self, log: AuditLog, signer: Signer, now_ms: Callable[[], int]) -> None:
        self._log = log
        self._signer = signer
        self._now_ms = now_ms

    def vouch(self) -> bytes | None:
        """The note that vouches for all that the log has, made now if there is none; None of an empty log.

        Raises SigningError, AuditDatabaseError.
        """
        return self._vouch(lambda *_: True)

    def vouch_if_due(self) -> None:
        """Makes a checkpoint once enough was appended, or enough time went by. Raises the same."""
        self._vouch(lambda position, last: due(position, last, self._now_ms()))

    def _vouch(self, wanted: Callable[[int, Checkpoint | None], bool]) -> bytes | None:
        newest: bytes | None = None
        _ = self._signer.public_key  # if the key has to be made, it is before others wait for the database

        def make(end: Entry | None, last: Numbered | None) -> bytes | None:
            nonlocal newest
            before = _trusted(self._signer, last)
            newest = last.note if last else None
            grown = end is not None and (before is None or end.position > before.position)
            if end is None or not grown or not wanted(end.position, before):
                return None
            next_one = following(end.position, end.entry_hash, before, newest, self._now_ms())
            newest = self._signer.sign(next_one.text)
            return newest

        if added := self._log.add_checkpoint(make):
            self._signer.keep(added)
        return newest


def is_due(log: AuditLog, position: int, now: int) -> bool:
    """Whether a log that ends at a position needs a checkpoint. Raises AuditDatabaseError."""
    last = log.last_checkpoint()
    try:
        return due(position, unverified(last.note) if last else None, now)
    except NoteError:
        return False  # whoever would make the next one tells of it


def _trusted(signer: Signer, last: Numbered | None) -> Checkpoint | None:
    """The last checkpoint of the database. One that went on from another would hide what was done."""
    try:
        before = verified(last.note, signer.public_key) if last else None
        anchor = signer.anchor()
        anchored = verified(anchor, signer.public_key) if anchor else None
    except NoteError as error:
        raise _refused(signer, f"The last checkpoint is not to be trusted: {error}.") from error
    reached = before.sequence if before else 0
    if last and last.sequence != reached:
        raise _refused(signer, "The last checkpoint is not that of its place.")
    if anchored and anchored.sequence > reached:
        raise _refused(signer, f"Checkpoint {anchored.sequence} was signed, and is gone.")
    if last and anchored and anchored.sequence == reached and anchor != last.note:
        raise _refused(signer, "The last checkpoint is not the one that was signed.")
    return before


def _refused(signer: Signer, reason: str) -> SigningError:
    return SigningError(
        f"{reason} No more are made until that is mended: `keyledger audit check` says more. If an old copy "
        f"of the audit log's database was brought back on purpose, remove {signer.anchor_file}."
    )
