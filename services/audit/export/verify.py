"""Whether an export is what was signed, by the file and the public key alone. Pure."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from services.audit.export.jsonl import WHOLE, LineError, Trailer, read_entry, read_note, trailer_of
from services.audit.integrity.chain import CheckpointChain, SignedRanges
from services.audit.integrity.checkpoint import unverified
from services.audit.integrity.findings import Finding, Findings, Kind
from services.audit.integrity.signed_note import NoteError, PublicKey, opened
from services.audit.log.entry import GENESIS, Entry


@dataclass
class Proof(Findings):
    """What a file is, and what is wrong with it."""

    entries: int = 0
    checkpoints: int = 0
    last_position: int = 0
    trailer: Trailer | None = None  # None, if the key did not sign one


def prove(file: Iterable[bytes], public_key: PublicKey) -> Proof:
    """Goes through an export, given by its lines. None of it is to be trusted before this ended."""
    reader = _Reader(public_key)
    for line in file:
        reader.read(line)
    return reader.end()


class _Reader:
    """Takes the file line by line. Behind a fault it goes on from what is there."""

    def __init__(self, public_key: PublicKey) -> None:
        self._public_key = public_key
        self._proof = Proof()
        self._chain = CheckpointChain(public_key, self._proof)
        self._vouchers = SignedRanges(self._proof)
        self._digest = sha256()
        self._hash: bytes | None = GENESIS  # of the last entry; None if it is not known
        self._first_gap: int | None = None
        self._has_trailer = False

    def read(self, line: bytes) -> None:
        """The next line."""
        if self._has_trailer:
            self._find(Kind.EXTRA, self._proof.last_position, "the file goes on after its trailer")
        elif not line.endswith(b"\n"):
            self._cut_off("the file breaks off in the middle of a line")
        elif line.startswith(b'{"trailer"'):
            self._read_trailer(line)
        else:
            self._digest.update(line)
            if line.startswith(b'{"checkpoint"'):
                self._read_checkpoint(line)
            else:
                self._read_entry(line)

    def end(self) -> Proof:
        """What was found."""
        proof = self._proof
        if not self._has_trailer:
            self._cut_off("the file ends without a trailer")
        self._vouchers.end(proof.last_position)
        if proof.trailer and proof.trailer.scope == WHOLE:
            self._miss()
        if proof.trailer and proof.ok:
            self._compare(proof.trailer)
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
        if entry.position < expected:
            doubled = entry.position == self._proof.last_position
            kind, detail = (Kind.EXTRA, "it is there twice") if doubled else (Kind.OUT_OF_ORDER, "")
            self._find(kind, entry.position, detail or f"it stands behind position {expected - 1}")
            return
        if entry.position > expected:
            self._first_gap = self._first_gap or expected
            self._hash = None
        self._judge(entry)
        self._proof.last_position = entry.position
        self._vouchers.look(entry.position, self._hash)

    def _judge(self, entry: Entry) -> None:
        """An entry by itself and behind the one before."""
        if sha256(entry.previous_hash + entry.record).digest() != entry.entry_hash:
            self._find(Kind.CHANGED, entry.position, "its hash is not that of its record")
        elif self._hash not in {None, entry.previous_hash}:
            self._find(Kind.CHANGED, entry.position, "it does not follow the entry before")
        else:
            self._hash = entry.entry_hash
            return
        self._hash = None

    def _read_checkpoint(self, line: bytes) -> None:
        self._proof.checkpoints += 1
        note: bytes | None = None
        sequence = self._chain.reached + 1
        with suppress(LineError, NoteError):  # the chain tells what is wrong with it
            note = read_note("checkpoint", line)
            sequence = unverified(note).sequence
        checkpoint = self._chain.follow(sequence, note)
        if checkpoint:
            self._vouchers.expect(checkpoint)
            self._vouchers.look(self._proof.last_position, self._hash)

    def _read_trailer(self, line: bytes) -> None:
        self._has_trailer = True
        try:
            self._proof.trailer = trailer_of(opened(read_note("trailer", line), self._public_key))
        except (LineError, NoteError) as error:
            self._find(Kind.TRAILER_FORGED, self._proof.last_position, f"the trailer: {error}")

    def _cut_off(self, detail: str) -> None:
        self._has_trailer = True  # nothing more is looked for
        self._find(Kind.CUT_OFF, self._proof.last_position + 1, detail)

    def _miss(self) -> None:
        """What a whole log has, and the file has not."""
        there = self._proof.entries - self._proof.counts.get(Kind.EXTRA, 0)
        missing = self._proof.last_position - there
        if self._first_gap and missing > 0:
            finding = Finding(Kind.MISSING, self._first_gap, "there is no entry, though later ones are")
            self._proof.add(finding, missing)

    def _compare(self, trailer: Trailer) -> None:
        there = {
            "count": (trailer.count, self._proof.entries),
            "last_position": (trailer.last_position, self._proof.last_position),
            "chain_hash": (trailer.chain_hash, self._hash if self._proof.entries else GENESIS),
            "sha256": (trailer.sha256, self._digest.digest()),
        }
        different = [name for name, (signed, found) in there.items() if signed != found]
        if different:
            detail = f"the trailer vouches for another {', '.join(different)}"
            self._find(Kind.TRAILER_OF_OTHERS, self._proof.last_position, detail)

    def _find(self, kind: Kind, position: int, detail: str) -> None:
        self._proof.add(Finding(kind, position, detail))
