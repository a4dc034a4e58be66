"""Checkpoints: what the key has signed of the chain, one after the other. Pure.

The text of each is seven lines: what it is, then `name value`. It vouches for all entries up to its position,
for the hash of each is in that of the next; and for the checkpoints before it, by the hash of the last.
"""

import hashlib
import re
from typing import NamedTuple

from services.audit.integrity.signed_note import NoteError, PublicKey, opened, text_of
from shared.clock import parse_rfc3339, rfc3339

DUE_ENTRIES = 10_000
DUE_MS = 5 * 60 * 1000
NO_CHECKPOINT = bytes(32)  # in the place of the hash of the one before, in the first

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
    """What is vouched for: the chain up to a position, at a time."""

    sequence: int  # the first is 1
    previous: bytes  # SHA-256 of the whole note of the checkpoint before
    position: int  # positions have no gap, so it is the count of entries as well
    chain_hash: bytes  # the entry_hash of the last of them
    time: int  # ms since 1970; never earlier than that of the one before

    @property
    def text(self) -> str:
        """What is signed."""
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
    """The inverse. Raises NoteError on any other text."""
    match = _TEXT.fullmatch(text)
    if match:
        sequence, previous, position, _, chain_hash, time = match.groups()
        try:
            at = parse_rfc3339(time)
        except ValueError as error:
            raise NoteError("its time is none") from error
        before, vouched = bytes.fromhex(previous), bytes.fromhex(chain_hash)
        found = SignedCheckpoint(int(sequence), before, int(position), vouched, at)
        if found.text == text:
            return found
    raise NoteError("its text is not that of a checkpoint")


def verified(note: bytes, public_key: PublicKey) -> SignedCheckpoint:
    """The checkpoint that the key signed. Raises NoteError."""
    return of_text(opened(note, public_key))


def unverified(note: bytes) -> SignedCheckpoint:
    """What a note says, whoever signed it. Raises NoteError."""
    return of_text(text_of(note))


def note_hash(note: bytes) -> bytes:
    """What the next checkpoint says of this one."""
    return hashlib.sha256(note).digest()


def due(position: int, last: SignedCheckpoint | None, now: int) -> bool:
    """Whether a log that ends at a position needs another checkpoint; 0 is the end of an empty one."""
    if last is None:
        return position > 0
    entries = position - last.position
    return entries >= DUE_ENTRIES or (entries > 0 and now - last.time >= DUE_MS)


def following(
    position: int, chain_hash: bytes, last: SignedCheckpoint | None, last_note: bytes | None, now: int
) -> SignedCheckpoint:
    """The checkpoint of a log that ends so, after the last one and its note, if there is one."""
    if last is None or last_note is None:
        return SignedCheckpoint(1, NO_CHECKPOINT, position, chain_hash, now)
    return SignedCheckpoint(
        last.sequence + 1, note_hash(last_note), position, chain_hash, max(now, last.time)
    )
