"""Tampering with the log, its checkpoints, the ledger or an export: all of it is found and named.

The log has ten entries, and checkpoints at 3, 6 and 10. Each row of the tables is a kind of tampering, and
what the check must say of it: each kind, how often, and where it is first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis import Redis

from services.audit.export.jsonl import WHOLE, entry_line, lines, note_line, read_note, scope_of, trailer_of
from services.audit.export.verify import prove
from services.audit.ingest.job import catch_up
from services.audit.integrity.checkpoint import SignedCheckpoint, note_hash, unverified
from services.audit.integrity.findings import Findings, Kind
from services.audit.integrity.notary import Notary
from services.audit.integrity.signed_note import signed, text_of
from services.audit.integrity.signer import KEY_NAME, Signer
from services.audit.integrity.verify_log import Trust, check
from services.audit.log.entry import GENESIS, Entry, canonical, chain, entry_of, record_of
from services.audit.log.filters import Filters
from services.audit.log.store import AuditLog
from shared.eventstore.envelope import Actor, Record
from shared.eventstore.ledger import LOG, Ledger
from tests.support.histories import ACTOR, AT, grow, record
from tests.support.tampering import Tampered

STRANGER = Ed25519PrivateKey.generate()

Found = dict[Kind, tuple[int, int]]  # how many of each kind, and where the first is


def found(findings: Findings) -> Found:
    return {kind: (findings.counts[kind], first.position) for kind, first in findings.first.items()}


@dataclass(frozen=True)
class World:
    """The log, everything it is checked against, and direct access to its database."""

    log: AuditLog
    ledger: Ledger
    store: Redis
    signer: Signer
    database: Tampered

    def checked(self) -> Found:
        trust = Trust(self.signer.public_key, self.signer.anchor())
        return found(check(self.log, self.ledger, trust, lambda *_: None))

    def entry(self, position: int) -> Entry:
        return next(self.log.walk(position, position - 1))

    def event(self, position: int) -> Record:
        event = record_of(self.entry(position).record)
        assert event
        return event

    def note(self, sequence: int) -> bytes:
        return next(each.note for each in self.log.checkpoints() if each.sequence == sequence)

    def set_note(self, sequence: int, note: bytes) -> None:
        self.database.run(
            f"UPDATE audit_checkpoints SET note = :note WHERE sequence = {sequence}",  # noqa: S608  # a test's own
            note=note,
        )

    def forge(self, position: int, event: Record) -> None:
        """Replaces an event and computes a matching hash."""
        self.database.overwrite(entry_of(event, self.entry(position).previous_hash))

    def rewrite(self, position: int, event: Record) -> None:
        """Replaces an event and recomputes the whole chain after it."""
        previous_hash = self.entry(position).previous_hash
        events = [event, *(self.event(other) for other in range(position + 1, 11))]
        for entry in chain(events, previous_hash):
            self.database.overwrite(entry)

    def rewrite_ledger(self, events: list[Record]) -> None:
        """Replaces the events in the store, as the owner of the store can."""
        self.store.delete(LOG)
        for event in events:
            self.store.xadd(LOG, {"at": event.at, "event": event.body}, id=f"0-{event.position}")


@pytest.fixture
def world(
    log: AuditLog, ledger: Ledger, store: Redis, signer: Signer, notary: Notary, tampered: Tampered
) -> World:
    for events in (3, 3, 4):
        grow(ledger, events)
        catch_up(log, ledger)
        notary.sign_checkpoint()
    tampered.disarm()
    return World(log, ledger, store, signer, tampered)


def eve(position: int) -> Record:
    return record(position, actor=Actor(kind="account", id="account:eve@example.org", label="Eve"))


def delete(world: World, where: str) -> None:
    world.database.run(f"DELETE FROM audit_entries WHERE {where}")  # noqa: S608  # a test's own


def delete_checkpoints(world: World, where: str) -> None:
    world.database.run(f"DELETE FROM audit_checkpoints WHERE {where}")  # noqa: S608  # a test's own


def change_a_field(world: World) -> None:
    """Changes the record only."""
    sealed = world.entry(4).record.replace(b'"reason":""', b'"reason":"none"')
    world.database.change(4, "record = :record", record=sealed)


def change_the_actor(world: World) -> None:
    assert ACTOR.label.encode() in world.entry(4).record
    sealed = world.entry(4).record.replace(ACTOR.label.encode(), b"eve@example.org")
    world.database.change(4, "record = :record", record=sealed)


def change_the_time_in_the_record(world: World) -> None:
    event = world.event(4)
    world.database.change(4, "record = :record", record=canonical(event._replace(at=event.at - 60_000)))


def replace_an_entry(world: World) -> None:
    world.forge(4, eve(4))


def swap_entries(world: World) -> None:
    world.database.run(
        "UPDATE audit_entries SET position = 99 WHERE position = 4",
        "UPDATE audit_entries SET position = 4 WHERE position = 7",
        "UPDATE audit_entries SET position = 7 WHERE position = 99",
    )


def move_an_entry(world: World) -> None:
    world.database.run("UPDATE audit_entries SET position = 11 WHERE position = 4")


def insert_an_event(world: World) -> None:
    """Appends an invented event after the log's end, as the log would have written it."""
    entry = entry_of(eve(11), world.entry(10).entry_hash)
    world.database.copy(10, 11)
    world.database.overwrite(entry)


def rewrite_the_chain(world: World) -> None:
    world.rewrite(4, eve(4))


def rewrite_chain_and_ledger(world: World) -> None:
    world.rewrite(4, eve(4))
    world.rewrite_ledger([world.event(position) for position in range(1, 11)])


def leave_an_event_out(world: World) -> None:
    """Removes an event from log and ledger, moves later ones up, and recomputes the chain."""
    events = [world.event(position) for position in range(1, 11) if position != 4]
    events = [event._replace(position=position) for position, event in enumerate(events, 1)]
    for entry in chain(events, GENESIS):
        world.database.overwrite(entry)
    delete(world, "position = 10")
    world.rewrite_ledger(events)


def cut_off_log_and_ledger(world: World) -> None:
    delete(world, "position > 6")
    world.rewrite_ledger(world.ledger.read(0, 6))


def end_behind_the_chain(world: World) -> None:
    """Deletes the last entries and their checkpoint, but not the anchor next to the key."""
    cut_off_log_and_ledger(world)
    delete_checkpoints(world, "sequence = 3")


def lose_the_ledgers_end(world: World) -> None:
    world.store.xdel(LOG, "0-9", "0-10")


def lose_an_event_of_the_ledger(world: World) -> None:
    world.store.xdel(LOG, "0-4")


def change_the_ledger(world: World) -> None:
    events = world.ledger.read(0, 10)
    world.rewrite_ledger([*events[:3], eve(4), *events[4:]])


def forge_a_checkpoint(world: World) -> None:
    """Signs a recomputed chain with another key of the same name."""
    world.rewrite(8, eve(8))
    said = unverified(world.note(3))._replace(chain_hash=world.entry(10).entry_hash)
    world.set_note(3, signed(said.text, KEY_NAME, STRANGER))


def edit_a_checkpoint(world: World) -> None:
    said = unverified(world.note(2))._replace(position=5, chain_hash=world.entry(5).entry_hash)
    world.set_note(2, world.note(2).replace(text_of(world.note(2)).encode(), said.text.encode()))


def sign_with_another_key(world: World) -> None:
    previous = bytes(32)
    for sequence in (1, 2, 3):
        said = unverified(world.note(sequence))._replace(previous=previous)
        world.set_note(sequence, signed(said.text, KEY_NAME, STRANGER))
        previous = note_hash(world.note(sequence))


def swap_checkpoints(world: World) -> None:
    first, second = world.note(1), world.note(2)
    world.set_note(1, second)
    world.set_note(2, first)


def repeat_a_checkpoint(world: World) -> None:
    world.set_note(3, world.note(2))


def fork_the_checkpoints(world: World) -> None:
    """Signs a second checkpoint 2 with the same key, as a copy of the log elsewhere would."""
    said = unverified(world.note(2))
    world.set_note(2, world.signer.sign(said._replace(time=said.time + 1).text))


def fork_the_last_checkpoint(world: World) -> None:
    said = unverified(world.note(3))
    world.set_note(3, world.signer.sign(said._replace(time=said.time + 1).text))


def vouch_for(world: World, **changed: Any) -> None:
    """Signs another last checkpoint with the key, and keeps it as the anchor."""
    note = world.signer.sign(unverified(world.note(3))._replace(**changed).text)
    world.set_note(3, note)
    world.signer.anchor_file.write_bytes(note)


def vouch_for_less(world: World) -> None:
    vouch_for(world, position=5, chain_hash=world.entry(5).entry_hash)


def move_a_checkpoint(world: World) -> None:
    """Moves a checkpoint to the next position and leaves its own empty."""
    world.set_note(3, world.note(2))
    delete_checkpoints(world, "sequence = 2")


def add_a_checkpoint(world: World) -> None:
    said = SignedCheckpoint(4, note_hash(world.note(3)), 10, world.entry(10).entry_hash, AT + 10**9)
    world.database.run(
        "INSERT INTO audit_checkpoints (sequence, note) VALUES (4, :note)",
        note=signed(said.text, KEY_NAME, STRANGER),
    )


def spoil_the_anchor(world: World) -> None:
    world.signer.anchor_file.write_bytes(signed("text\n", KEY_NAME, STRANGER))


DATABASE: dict[str, tuple[Callable[[World], None], Found]] = {
    "a changed field": (change_a_field, {Kind.CHANGED: (1, 4)}),
    "a changed actor": (change_the_actor, {Kind.CHANGED: (1, 4)}),
    "a changed time in the record": (change_the_time_in_the_record, {Kind.CHANGED: (1, 4)}),
    "a changed time beside it": (
        lambda world: world.database.change(4, "at = at - 1"),
        {Kind.CHANGED: (1, 4)},
    ),
    "a changed hash": (
        lambda world: world.database.change(4, "entry_hash = previous_hash"),
        {Kind.CHANGED: (1, 4)},
    ),
    "a changed previous hash": (
        lambda world: world.database.change(4, "previous_hash = entry_hash"),
        {Kind.CHANGED: (1, 4)},
    ),
    "a changed last hash": (
        lambda world: world.database.change(10, "entry_hash = previous_hash"),
        {Kind.CHANGED: (1, 10)},
    ),
    "a deleted entry": (lambda world: delete(world, "position = 4"), {Kind.MISSING: (1, 4)}),
    "a deleted beginning": (lambda world: delete(world, "position < 4"), {Kind.MISSING: (3, 1)}),
    "an inserted event": (insert_an_event, {Kind.LEDGER_SHORTER: (1, 11)}),
    "a replaced entry": (replace_an_entry, {Kind.CHANGED: (1, 4)}),
    "swapped entries": (swap_entries, {Kind.OUT_OF_ORDER: (2, 4)}),
    "a doubled entry": (lambda world: world.database.copy(4, 11), {Kind.EXTRA: (1, 11)}),
    "a doubled entry before the first": (
        lambda world: world.database.copy(4, 0),
        {Kind.EXTRA: (1, 0)},
    ),
    "a moved entry": (move_an_entry, {Kind.MISSING: (1, 4), Kind.EXTRA: (1, 11)}),
    "the end cut off": (lambda world: delete(world, "position > 6"), {Kind.CUT_OFF: (4, 7)}),
    "all entries deleted": (lambda world: delete(world, "true"), {Kind.CUT_OFF: (10, 1)}),
    "the end cut off of log and ledger": (cut_off_log_and_ledger, {Kind.CUT_OFF: (4, 7)}),
    "the end cut off with its checkpoint": (end_behind_the_chain, {Kind.CHECKPOINT_MISSING: (1, 3)}),
    "the chain computed again": (rewrite_the_chain, {Kind.CHANGED: (1, 4), Kind.REWRITTEN: (2, 6)}),
    "the chain computed again, and the ledger": (rewrite_chain_and_ledger, {Kind.REWRITTEN: (2, 6)}),
    "an event left out of both": (
        leave_an_event_out,
        {Kind.REWRITTEN: (1, 6), Kind.CUT_OFF: (1, 10)},
    ),
    "an old copy of the ledger": (lose_the_ledgers_end, {Kind.LEDGER_SHORTER: (2, 9)}),
    "an event deleted from the ledger": (lose_an_event_of_the_ledger, {Kind.EXTRA: (1, 4)}),
    "a changed ledger": (change_the_ledger, {Kind.CHANGED: (1, 4)}),
    "a forged checkpoint": (
        forge_a_checkpoint,
        {Kind.CHANGED: (1, 8), Kind.CHECKPOINT_FORGED: (1, 3)},
    ),
    "an edited checkpoint": (edit_a_checkpoint, {Kind.CHECKPOINT_FORGED: (1, 2)}),
    "checkpoints of another key": (sign_with_another_key, {Kind.CHECKPOINT_FORGED: (3, 1)}),
    "swapped checkpoints": (swap_checkpoints, {Kind.CHECKPOINT_FORGED: (2, 1)}),
    "a repeated checkpoint": (repeat_a_checkpoint, {Kind.CHECKPOINT_FORGED: (1, 3)}),
    "another second checkpoint": (fork_the_checkpoints, {Kind.CHECKPOINT_FORGED: (1, 3)}),
    "another last checkpoint": (fork_the_last_checkpoint, {Kind.CHECKPOINT_FORGED: (1, 3)}),
    "a moved checkpoint": (
        move_a_checkpoint,
        {Kind.CHECKPOINT_FORGED: (1, 3), Kind.CHECKPOINT_MISSING: (2, 2)},
    ),
    "a checkpoint of less than the one before": (vouch_for_less, {Kind.CHECKPOINT_FORGED: (1, 3)}),
    "a checkpoint of a time before": (
        lambda world: vouch_for(world, time=AT - 1),
        {Kind.CHECKPOINT_FORGED: (1, 3)},
    ),
    "an added checkpoint": (add_a_checkpoint, {Kind.CHECKPOINT_FORGED: (1, 4)}),
    "a checkpoint that is no note": (
        lambda world: world.set_note(2, b"\xff"),
        {Kind.CHECKPOINT_FORGED: (1, 2)},
    ),
    "a removed first checkpoint": (
        lambda world: delete_checkpoints(world, "sequence = 1"),
        {Kind.CHECKPOINT_MISSING: (1, 1)},
    ),
    "a removed middle checkpoint": (
        lambda world: delete_checkpoints(world, "sequence = 2"),
        {Kind.CHECKPOINT_MISSING: (1, 2)},
    ),
    "a removed last checkpoint": (
        lambda world: delete_checkpoints(world, "sequence = 3"),
        {Kind.CHECKPOINT_MISSING: (1, 3)},
    ),
    "all checkpoints removed": (
        lambda world: delete_checkpoints(world, "true"),
        {Kind.CHECKPOINT_MISSING: (3, 1)},
    ),
    "a forged anchor": (spoil_the_anchor, {Kind.CHECKPOINT_FORGED: (1, 3)}),
}


def test_an_intact_log_has_no_findings(world: World) -> None:
    assert world.checked() == {}


@pytest.mark.parametrize(("owner", "name"), [("log", "checkpoints"), ("log", "last"), ("ledger", "head")])
def test_entries_and_checkpoints_added_during_the_check_cause_no_findings(
    world: World, notary: Notary, monkeypatch: pytest.MonkeyPatch, owner: str, name: str
) -> None:
    read = getattr(getattr(world, owner), name)

    def read_and_go_on() -> Any:
        monkeypatch.undo()
        found = read()
        grow(world.ledger, 3, "key:2")
        catch_up(world.log, world.ledger)
        notary.sign_checkpoint()
        return found

    trust = Trust(world.signer.public_key, world.signer.anchor())
    monkeypatch.setattr(getattr(world, owner), name, read_and_go_on)
    result = check(world.log, world.ledger, trust, lambda *_: None)
    assert found(result) == {}
    assert result.ledger_position >= result.log_position


@pytest.mark.parametrize("name", DATABASE)
def test_tampering_with_log_or_ledger_is_found(world: World, name: str) -> None:
    tamper, expected = DATABASE[name]
    tamper(world)
    assert world.checked() == expected


def test_a_rewritten_chain_is_reported_with_its_first_suspect_position(world: World) -> None:
    world.rewrite(8, eve(8))
    world.rewrite_ledger([world.event(position) for position in range(1, 11)])
    trust = Trust(world.signer.public_key, world.signer.anchor())
    (finding,) = check(world.log, world.ledger, trust, lambda *_: None).findings
    assert finding.position == 10
    assert finding.detail == (
        "checkpoint 3 was signed for another chain up to here, which was changed after position 6"
    )


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


class File:
    """An intact export of ten entries with three checkpoints, to be tampered with."""

    def __init__(self, directory: Path) -> None:
        self.signer = Signer(directory / "key.pem")
        self.entries = [*chain([record(position) for position in range(1, 11)], GENESIS)]
        self.notes: list[bytes] = []
        for sequence, position in enumerate((3, 6, 10), 1):
            previous = note_hash(self.notes[-1]) if self.notes else bytes(32)
            entry_hash = self.entries[position - 1].entry_hash
            said = SignedCheckpoint(sequence, previous, position, entry_hash, AT + sequence)
            self.notes.append(self.signer.sign(said.text))

    def export(
        self, entries: list[Entry] | None = None, scope: str = WHOLE, sign: Any = None, at: int = AT
    ) -> bytes:
        """The exported file, as bytes."""
        vouchers = list(zip((3, 6, 10), self.notes, strict=True)) if scope == WHOLE else []
        return b"".join(lines(entries or self.entries, vouchers, scope, at, sign or self.signer.sign))

    @property
    def whole(self) -> list[bytes]:
        """The lines of a whole export: each checkpoint follows the entry it covers (3, 6 and 10)."""
        return self.export().splitlines(keepends=True)

    def line(self, position: int) -> bytes:
        return entry_line(self.entries[position - 1])

    def proved(self, content: bytes) -> Found:
        return found(prove(content.splitlines(keepends=True), self.signer.public_key))

    def signed_trailer(self, **changed: object) -> bytes:
        """A trailer signed by the key, with changed fields."""
        note = self.whole[-1]
        trailer = replace(trailer_of(text_of(read_note("trailer", note))), **changed)  # type: ignore[arg-type]  # as it is
        return note_line("trailer", self.signer.sign(trailer.text))


@pytest.fixture(scope="module")
def file(key_files: Path) -> File:
    return File(key_files)


def without(content: list[bytes], *numbers: int) -> bytes:
    return b"".join(line for number, line in enumerate(content) if number not in numbers)


def swapped(content: list[bytes], one: int, other: int) -> bytes:
    content[one], content[other] = content[other], content[one]
    return b"".join(content)


def put(content: list[bytes], number: int, line: bytes) -> bytes:
    return b"".join([*content[:number], line, *content[number:]])


def edited(file: File) -> bytes:
    return file.export().replace(b'"reason":""', b'"reason":"x"', 1)


def rewritten(file: File) -> bytes:
    """Recomputes the chain after a replaced event and signs it, as the key's owner could."""
    events = [record_of(entry.record) for entry in file.entries]
    events[3] = eve(4)
    return file.export([*chain((event for event in events if event), GENESIS)])


def relinked(file: File) -> bytes:
    """Links an entry to another chain."""
    entries = list(file.entries)
    entries[3] = entry_of(record(4), GENESIS)
    return file.export(entries)


def missing_in_what_is_signed(file: File) -> bytes:
    return file.export([*file.entries[:3], *file.entries[5:]])


def begins_late(file: File) -> bytes:
    return file.export(file.entries[2:])


def other_genesis(file: File) -> bytes:
    return file.export([*chain([record(1)], b"\x00" * 32)])


def broken_checkpoint(file: File) -> bytes:
    return file.export().replace(b"position 6", b"position 5")


def stranger_signs(text: str) -> bytes:
    return signed(text, KEY_NAME, STRANGER)


EXPORTS: dict[str, tuple[Callable[[File], bytes], Found]] = {
    "cut off in a line": (lambda file: file.export()[:-400], {Kind.CUT_OFF: (1, 11)}),
    "cut off in an entry": (lambda file: b"".join(file.whole)[:1000], {Kind.CUT_OFF: (1, 2)}),
    "cut off at the end of a line": (lambda file: b"".join(file.whole[:6]), {Kind.CUT_OFF: (1, 6)}),
    "without trailer": (lambda file: without(file.whole, 13), {Kind.CUT_OFF: (1, 11)}),
    "empty": (lambda _: b"", {Kind.CUT_OFF: (1, 1)}),
    "an edited entry": (edited, {Kind.CHANGED: (1, 1)}),
    "an entry with other spaces": (
        lambda file: file.export().replace(b'"record":{', b'"record": {', 1),
        {Kind.CHANGED: (1, 1)},
    ),
    "a line that is none": (
        lambda file: put(file.whole, 5, b"{}\n"),
        {Kind.CHANGED: (1, 5), Kind.EXTRA: (1, 5)},
    ),
    "a removed entry": (lambda file: without(file.whole, 4), {Kind.MISSING: (1, 4)}),
    "a removed beginning": (lambda file: without(file.whole, 0, 1), {Kind.MISSING: (2, 1)}),
    "a removed end": (lambda file: without(file.whole, 11), {Kind.CUT_OFF: (1, 10)}),
    "a removed end with its checkpoint": (
        lambda file: without(file.whole, 11, 12),
        {Kind.TRAILER_OF_OTHERS: (1, 9)},
    ),
    "swapped entries": (lambda file: swapped(file.whole, 4, 5), {Kind.OUT_OF_ORDER: (1, 4)}),
    "a doubled entry": (lambda file: put(file.whole, 5, file.line(4)), {Kind.EXTRA: (1, 4)}),
    "an inserted entry": (
        lambda file: put(file.whole, 13, entry_line(entry_of(eve(11), file.entries[9].entry_hash))),
        {Kind.TRAILER_OF_OTHERS: (1, 11)},
    ),
    "a chain computed again and signed": (rewritten, {Kind.REWRITTEN: (2, 6)}),
    "an entry of another chain, signed": (relinked, {Kind.CHANGED: (1, 4)}),
    "entries left out, signed": (missing_in_what_is_signed, {Kind.MISSING: (2, 4)}),
    "a beginning left out, signed": (begins_late, {Kind.MISSING: (2, 1)}),
    "another beginning, signed": (other_genesis, {Kind.CHANGED: (1, 1), Kind.CUT_OFF: (9, 2)}),
    "an edited checkpoint": (broken_checkpoint, {Kind.CHECKPOINT_FORGED: (1, 2)}),
    "a removed checkpoint": (lambda file: without(file.whole, 7), {Kind.CHECKPOINT_MISSING: (1, 2)}),
    "a removed last checkpoint": (lambda file: without(file.whole, 12), {Kind.TRAILER_OF_OTHERS: (1, 10)}),
    "a moved checkpoint": (lambda file: swapped(file.whole, 7, 8), {Kind.TRAILER_OF_OTHERS: (1, 10)}),
    "a checkpoint of another key": (
        lambda file: put(
            file.whole[:12] + file.whole[13:],
            12,
            note_line("checkpoint", stranger_signs(text_of(file.notes[2]))),
        ),
        {Kind.CHECKPOINT_FORGED: (1, 3)},
    ),
    "a trailer of another export": (
        lambda file: (
            without(file.whole, 13)
            + file.export(file.entries[:6], scope_of("default", {})).splitlines(keepends=True)[-1]
        ),
        {Kind.TRAILER_OF_OTHERS: (1, 10)},
    ),
    "a trailer with another count": (
        lambda file: without(file.whole, 13) + file.signed_trailer(count=11),
        {Kind.TRAILER_OF_OTHERS: (1, 10)},
    ),
    "a trailer with another last hash": (
        lambda file: without(file.whole, 13) + file.signed_trailer(chain_hash=GENESIS),
        {Kind.TRAILER_OF_OTHERS: (1, 10)},
    ),
    "a trailer of another key": (
        lambda file: file.export(sign=stranger_signs),
        {Kind.TRAILER_FORGED: (1, 10)},
    ),
    "an edited trailer": (
        lambda file: file.export().replace(b"count 10\\nlast", b"count 11\\nlast"),
        {Kind.TRAILER_FORGED: (1, 10)},
    ),
    "a second trailer": (lambda file: file.export() + file.whole[13], {Kind.EXTRA: (1, 10)}),
    "two exports": (lambda file: file.export() * 2, {Kind.EXTRA: (14, 10)}),
}


def test_an_intact_export_is_verified(file: File) -> None:
    proof = prove(file.whole, file.signer.public_key)
    assert (proof.ok, proof.entries, proof.checkpoints, proof.last_position) == (True, 10, 3, 10)
    assert proof.trailer
    assert proof.trailer.scope == WHOLE


@pytest.mark.parametrize("name", EXPORTS)
def test_tampering_with_an_export_is_found(file: File, name: str) -> None:
    tamper, expected = EXPORTS[name]
    assert file.proved(tamper(file)) == expected


def test_changing_or_cutting_off_any_byte_of_an_export_is_found(file: File) -> None:
    honest = file.export(file.entries[:2], scope_of("default", {}))
    for number in range(len(honest)):
        changed = honest[:number] + bytes([honest[number] ^ 1]) + honest[number + 1 :]
        assert file.proved(changed), number
        assert file.proved(honest[:number]), number


def test_an_export_with_gaps_between_entries_is_verified(file: File) -> None:
    some = [file.entries[position] for position in (1, 2, 5, 8)]
    assert file.proved(file.export(some, scope_of("default", {"type": "KeyToggled"}))) == {}


def test_an_export_without_entries_is_verified(file: File) -> None:
    nothing: Iterator[Entry] = iter(())
    content = b"".join(lines(nothing, [], scope_of("default", {"q": "x"}), AT, file.signer.sign))
    assert file.proved(content) == {}


def test_an_export_of_a_truncated_log_is_reported_as_cut_off(world: World) -> None:
    delete(world, "position > 6")
    vouchers = [(unverified(each.note).position, each.note) for each in world.log.checkpoints()]
    content = [*lines(world.log.walk(10), vouchers, WHOLE, AT, world.signer.sign)]
    assert found(prove(content, world.signer.public_key)) == {Kind.CUT_OFF: (4, 7)}


def test_a_filtered_export_from_the_log_is_verified(world: World) -> None:
    filters = Filters(workspace="default", type="KeyToggled")
    content = [
        *lines(world.log.search.ascending(filters), [], scope_of("default", {}), AT, world.signer.sign)
    ]
    proof = prove(content, world.signer.public_key)
    assert (proof.ok, proof.entries) == (True, 10)
