"""Signed checkpoints of the audit log. Pure.

The text of each has seven lines: its format, then `name value`. A checkpoint covers all entries up to its
position, because each entry's hash includes the previous one; and, likewise, all checkpoints before it.
"""

import hashlib
import re
from typing import NamedTuple

from services.audit.integrity.signed_note import NoteError, PublicKey, opened, text_of
from shared.clock import parse_rfc3339, rfc3339

DUE_ENTRIES = 10_000
DUE_MS = 5 * 60 * 1000
NO_CHECKPOINT = bytes(32)  # the `previous` of the first one

_TEXT = re.compile(
    r"keyledger audit checkpoint v1\n"
    r"sequence ([0-9]{1,18})\n"
    r"previous ([0-9a-f]{64})\n"
    r"position ([0-9]{1,18})\n"
    r"count ([0-9]{1,18})\n"
    r"chain_hash ([0-9a-f]{64})\n"
    r"time (\S{24})\n"
)


class SignedCheckpoint(NamedTuple):
    """The end of the chain at a time."""

    sequence: int  # the first is 1
    previous: bytes  # SHA-256 of the previous checkpoint's whole note
    position: int  # positions have no gap, so this is the count of entries too
    chain_hash: bytes  # the entry_hash of the last entry
    time: int  # ms since 1970; never earlier than the previous one

    @property
    def text(self) -> str:
        """The text that is signed."""
        return (
            "keyledger audit checkpoint v1\n"
            f"sequence {self.sequence}\n"
            f"previous {self.previous.hex()}\n"
            f"position {self.position}\n"
            f"count {self.position}\n"
            f"chain_hash {self.chain_hash.hex()}\n"
            f"time {rfc3339(self.time)}\n"
        )


def of_text(text: str) -> SignedCheckpoint:
    """The inverse of `SignedCheckpoint.text`. Raises NoteError for any other text."""
    match = _TEXT.fullmatch(text)
    if match:
        sequence, previous, position, _, chain_hash, time = match.groups()
        try:
            at = parse_rfc3339(time)
        except ValueError as error:
            raise NoteError("its time isn't valid") from error
        hashes = bytes.fromhex(previous), bytes.fromhex(chain_hash)
        found = SignedCheckpoint(int(sequence), hashes[0], int(position), hashes[1], at)
        if found.text == text:
            return found
    raise NoteError("its text isn't a checkpoint")


def verified(note: bytes, public_key: PublicKey) -> SignedCheckpoint:
    """The checkpoint of a note that the key signed. Raises NoteError."""
    return of_text(opened(note, public_key))


def unverified(note: bytes) -> SignedCheckpoint:
    """The checkpoint of a note, without verifying the signature. Raises NoteError."""
    return of_text(text_of(note))


def note_hash(note: bytes) -> bytes:
    """The `previous` of the next checkpoint."""
    return hashlib.sha256(note).digest()


def due(position: int, last: SignedCheckpoint | None, now: int) -> bool:
    """Whether a log that ends at a position needs another checkpoint. An empty log ends at 0."""
    if last is None:
        return position > 0
    entries = position - last.position
    return entries >= DUE_ENTRIES or (entries > 0 and now - last.time >= DUE_MS)


def following(
    position: int, chain_hash: bytes, last: SignedCheckpoint | None, last_note: bytes | None, now: int
) -> SignedCheckpoint:
    """The next checkpoint of a log with this end, after the last checkpoint and its note."""
    if last is None or last_note is None:
        return SignedCheckpoint(1, NO_CHECKPOINT, position, chain_hash, now)
    return SignedCheckpoint(
        last.sequence + 1, note_hash(last_note), position, chain_hash, max(now, last.time)
    )
