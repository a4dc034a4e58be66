"""Verifies an export of the audit log, by the file and the public key alone. Pure."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from services.audit.export.jsonl import TRAILER_START, WHOLE, Trailer, read_entry, read_note, trailer_of
from services.audit.integrity.chain import CheckpointChain, SignedRanges
from services.audit.integrity.checkpoint import unverified
from services.audit.integrity.findings import Finding, Findings, Kind
from services.audit.integrity.signed_note import NoteError, PublicKey, opened
from services.audit.log.entry import GENESIS, Entry
from shared.text.sealed_jsonl import LineError, SealedReader


@dataclass
class Proof(Findings):
    """The content of an export, and what is wrong with it."""

    entries: int = 0
    checkpoints: int = 0
    last_position: int = 0
    trailer: Trailer | None = None  # None if the key didn't sign one


def prove(file: Iterable[bytes], public_key: PublicKey) -> Proof:
    """Verifies the lines of an export. Don't trust any of them before this returned."""
    lines, verifier = SealedReader(file, TRAILER_START), _Verifier(public_key)
    for line in lines:
        verifier.read(line)
    return verifier.end(lines)


class _Verifier:
    """Verifies line by line. After a faulty line, the next one is compared with nothing."""

    def __init__(self, public_key: PublicKey) -> None:
        self._public_key = public_key
        self._proof = Proof()
        self._chain = CheckpointChain(public_key, self._proof)
        self._signed = SignedRanges(self._proof)
        self._hash: bytes | None = GENESIS  # of the last entry; None if it isn't known
        self._first_gap: int | None = None

    def read(self, line: bytes) -> None:
        """Verifies the next line before the trailer."""
        if line.startswith(b'{"checkpoint"'):
            self._read_checkpoint(line)
        else:
            self._read_entry(line)

    def end(self, lines: SealedReader) -> Proof:
        """Verifies the end of the file, and returns the result."""
        proof = self._proof
        if lines.trailer is None:
            where = "in the middle of a line" if lines.ends_within_line else "without a trailer"
            self._find(Kind.CUT_OFF, proof.last_position + 1, f"the file ends {where}")
        else:
            self._read_trailer(lines.trailer)
        if extra := lines.lines_after_trailer:
            finding = Finding(Kind.EXTRA, proof.last_position, "the file has lines after its trailer")
            proof.add(finding, extra)
        self._signed.end(proof.last_position)
        if proof.trailer and proof.trailer.scope == WHOLE:
            self._find_gaps()
        if proof.trailer and proof.ok:
            self._compare(proof.trailer, lines.sha256)
        return proof

    def _read_entry(self, line: bytes) -> None:
        self._proof.entries += 1
        expected = self._proof.last_position + 1
        try:
            entry = read_entry(line)
        except LineError as error:
            self._find(Kind.CHANGED, expected, str(error))
            self._proof.last_position, self._hash = expected, None
            return
        if entry.position == self._proof.last_position:
            self._find(Kind.EXTRA, entry.position, "it is there twice")
            return
        if entry.position < expected:
            self._find(Kind.OUT_OF_ORDER, entry.position, f"it comes after position {expected - 1}")
            return
        if entry.position > expected:
            self._first_gap = self._first_gap or expected
            self._hash = None
        self._hash = self._verified_hash(entry)
        self._proof.last_position = entry.position
        self._signed.look(entry.position, self._hash)

    def _verified_hash(self, entry: Entry) -> bytes | None:
        """The hash of an entry, or None if it doesn't follow from its record and the entry before."""
        if sha256(entry.previous_hash + entry.record).digest() != entry.entry_hash:
            self._find(Kind.CHANGED, entry.position, "its hash isn't the hash of its record")
        elif self._hash not in {None, entry.previous_hash}:
            self._find(Kind.CHANGED, entry.position, "it doesn't follow the entry before")
        else:
            return entry.entry_hash
        return None

    def _read_checkpoint(self, line: bytes) -> None:
        self._proof.checkpoints += 1
        note: bytes | None = None
        sequence = self._chain.reached + 1
        with suppress(LineError, NoteError):  # the chain finds what is wrong with it
            note = read_note("checkpoint", line)
            sequence = unverified(note).sequence
        checkpoint = self._chain.follow(sequence, note)
        if checkpoint:
            self._signed.expect(checkpoint)
            self._signed.look(self._proof.last_position, self._hash)

    def _read_trailer(self, line: bytes) -> None:
        try:
            self._proof.trailer = trailer_of(opened(read_note("trailer", line), self._public_key))
        except (LineError, NoteError) as error:
            self._find(Kind.TRAILER_FORGED, self._proof.last_position, f"the trailer: {error}")

    def _find_gaps(self) -> None:
        """Finds the positions that a whole log has, and the file doesn't."""
        there = self._proof.entries - self._proof.counts.get(Kind.EXTRA, 0)
        missing = self._proof.last_position - there
        if self._first_gap and missing > 0:
            finding = Finding(Kind.MISSING, self._first_gap, "there is no entry, though later ones are")
            self._proof.add(finding, missing)

    def _compare(self, trailer: Trailer, digest: bytes) -> None:
        """Compares what was signed with what was read."""
        there = {
            "count": (trailer.count, self._proof.entries),
            "last_position": (trailer.last_position, self._proof.last_position),
            "chain_hash": (trailer.chain_hash, self._hash if self._proof.entries else GENESIS),
            "sha256": (trailer.sha256, digest),
        }
        different = [name for name, (signed, found) in there.items() if signed != found]
        if different:
            detail = f"the trailer was signed for another {', '.join(different)}"
            self._find(Kind.TRAILER_OF_OTHERS, self._proof.last_position, detail)

    def _find(self, kind: Kind, position: int, detail: str) -> None:
        self._proof.add(Finding(kind, position, detail))
