"""Entries changed behind Keyledger's back are never signed, exported or shown as intact."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis import ConnectionError as StoreAwayError
from redis import Redis
from structlog.testing import capture_logs

from services.audit.export.selection import selected
from services.audit.export.service import AlarmError, Exports
from services.audit.ingest.job import catch_up
from services.audit.integrity.comparison import (
    Comparison,
    LedgerShorterError,
    MismatchError,
    SearchIndexError,
)
from services.audit.integrity.findings import Kind
from services.audit.log.entry import GENESIS, Entry, chain, entry_of, record_of
from services.audit.log.filters import Filters
from services.audit.log.store import AuditLog
from services.audit.log.terms import terms_of
from services.audit.queries import Audit
from shared.eventstore.envelope import Actor, Record
from shared.eventstore.ledger import LOG, Ledger
from shared.identity import AUDIT_READ, Principal
from tests.support.histories import ACTOR, AT, REQUEST, created, grow, record, write
from tests.support.tampering import Tampered

AUDITOR = Principal(
    kind="account", id=ACTOR.id, label="Ann", workspace="default", scopes=frozenset({AUDIT_READ})
)
ALL = Filters(workspace="default")
SOME = Filters(workspace="default", key_id="2")  # entries 4, 5 and 6 of nine


@dataclass(frozen=True)
class World:
    """Nine entries about three keys, and direct access to their database."""

    exports: Exports
    database: Tampered

    @property
    def comparison(self) -> Comparison:
        return self.exports.comparison

    @property
    def log(self) -> AuditLog:
        return self.comparison.log

    def entry(self, position: int) -> Entry:
        return next(self.log.walk(position, position - 1))

    def mismatches(self) -> list[int]:
        compared = self.comparison.compared([*self.log.walk(9)])
        return [each.position for each in compared if each.integrity == "mismatch"]

    def told(self) -> int:
        return self.comparison.ledger.version("audit:exports")


@pytest.fixture
def world(exports: Exports, sqlite_url: str) -> Any:
    for subject in ("key:1", "key:2", "key:3"):
        grow(exports.comparison.ledger, 3, subject)
    catch_up(exports.comparison.log, exports.comparison.ledger)
    database = Tampered(sqlite_url)
    database.disarm()
    yield World(exports, database)
    database.close()


def eve(position: int, at: int = AT) -> Record:
    return record(
        position, subject="key:2", actor=Actor(kind="account", id="account:eve", label="Eve"), at=at
    )


def forge(world: World, position: int = 5) -> None:
    """Replaces the event and computes a matching hash."""
    true = world.entry(position)
    world.database.overwrite(entry_of(eve(position, true.at), true.previous_hash))


def forge_and_chain(world: World) -> None:
    """Replaces event 5 and recomputes the chain after it."""
    events = [record_of(entry.record) for entry in world.log.walk(9, 4)]
    events[0] = eve(5)
    for entry in chain((event for event in events if event), world.entry(5).previous_hash):
        world.database.overwrite(entry)


def relink(world: World) -> None:
    """Links the right event into another chain."""
    event = record_of(world.entry(5).record)
    assert event
    world.database.overwrite(entry_of(event, GENESIS))


def change_ledger(world: World, store: Redis) -> None:
    events = world.comparison.ledger.read(0, 9)
    store.delete(LOG)
    for event in [*events[:4], eve(5), *events[5:]]:
        store.xadd(LOG, {"at": event.at, "event": event.body}, id=f"0-{event.position}")


TAMPERING: dict[str, tuple[Callable[[World], None], list[int]]] = {
    "a forged entry": (forge, [5, 6]),
    "a forged entry and the chain after it": (forge_and_chain, [5]),
    "the last entry forged": (lambda world: forge(world, 9), [9]),
    "an entry of another chain": (relink, [4, 5, 6]),
    "a changed record": (
        lambda world: world.database.change(5, "record = :it", it=world.entry(4).record),
        [5],
    ),
    "a changed time": (lambda world: world.database.change(5, "at = at - 1"), [5]),
    "a changed hash": (lambda world: world.database.change(5, "entry_hash = previous_hash"), [5, 6]),
    "text for bytes": (lambda world: world.database.change(5, "record = 'text', entry_hash = 7"), [5, 6]),
    "a deleted entry": (
        lambda world: world.database.run("DELETE FROM audit_entries WHERE position = 4"),
        [5],
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_changed_entries_are_marked(world: World, name: str) -> None:
    assert world.mismatches() == []
    tamper, marked = TAMPERING[name]
    tamper(world)
    assert world.mismatches() == marked


def test_an_entry_missing_from_the_ledger_is_marked(world: World, store: Redis) -> None:
    store.xdel(LOG, "0-8")
    assert world.mismatches() == [8]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("name", TAMPERING)
def test_changed_entries_are_neither_signed_nor_exported(world: World, name: str, form: Any) -> None:
    TAMPERING[name][0](world)
    with capture_logs() as lines:
        with pytest.raises(MismatchError, match=r"position [459] .*keyledger audit check"):
            world.exports.some(AUDITOR, ALL, form, REQUEST)
        with pytest.raises(MismatchError):
            world.exports.whole(AUDITOR, form, REQUEST, lambda *_: None)
    assert world.told() == 0
    assert {(line["event"], line["log_level"]) for line in lines} == {("audit log alarm", "error")}
    alarm = world.comparison.alarms.current()
    assert alarm
    assert alarm.finding.kind is Kind.CHANGED


def test_a_filtered_export_is_refused_only_if_its_own_entries_are_changed(
    world: World,
) -> None:
    forge(world, 2)
    assert len([*world.exports.some(AUDITOR, SOME, "jsonl", REQUEST).lines]) == 4
    forge(world, 5)
    with pytest.raises(MismatchError):
        world.exports.some(AUDITOR, SOME, "jsonl", REQUEST)


def test_an_entry_changed_during_an_export_ends_the_file_without_a_signature(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.audit.integrity.comparison._BATCH", 3)
    export = world.exports.some(AUDITOR, ALL, "jsonl", REQUEST)
    forge(world, 8)
    received: list[bytes] = []
    with pytest.raises(MismatchError):
        received.extend(export.lines)
    assert not [line for line in received if line.startswith(b'{"trailer"')]


def test_nothing_is_exported_while_the_ledger_is_unavailable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> Any:
        raise StoreAwayError

    monkeypatch.setattr(world.comparison.ledger, "at", away)
    with pytest.raises(StoreAwayError):
        world.exports.some(AUDITOR, ALL, "jsonl", REQUEST)


@pytest.mark.parametrize("name", TAMPERING)
def test_changed_entries_are_not_covered_by_a_checkpoint(world: World, name: str) -> None:
    TAMPERING[name][0](world)
    with pytest.raises(MismatchError):
        world.exports.notary.sign_checkpoint()
    assert world.log.checkpoints() == []
    assert world.comparison.alarms.current()


def test_a_checkpoint_is_signed_only_if_the_chain_extends_the_previous_one(
    world: World, ledger: Ledger
) -> None:
    assert world.exports.notary.sign_checkpoint()
    forge_and_chain(world)
    grow(ledger, 1, "key:4")
    catch_up(world.log, ledger)
    with pytest.raises(MismatchError, match="position 10"):
        world.exports.notary.sign_checkpoint()


def test_no_checkpoint_is_signed_for_a_changed_ledger(world: World, store: Redis) -> None:
    change_ledger(world, store)
    with pytest.raises(MismatchError, match="position 5"):
        world.exports.notary.sign_checkpoint()


def delete(world: World, position: int) -> None:
    world.database.run(f"DELETE FROM audit_entries WHERE position = {position}")  # noqa: S608  # a test's own


def unlist(world: World, position: int) -> None:
    """Removes an entry from the search index only."""
    event = record_of(world.entry(position).record)
    assert event
    terms = " ".join(terms_of(event))
    world.database.run(
        "INSERT INTO audit_terms (audit_terms, rowid, terms) VALUES ('delete', :position, :terms)",
        position=position,
        terms=terms,
    )


def list_twice(world: World) -> None:
    """Indexes an entry of another key under the key."""
    event = record_of(world.entry(5).record)
    assert event
    unlist(world, 9)
    world.database.run(
        "INSERT INTO audit_terms (rowid, terms) VALUES (9, :terms)", terms=" ".join(terms_of(event))
    )


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_filtered_export_missing_a_deleted_entry_is_refused_with_an_alarm(
    exports: Exports, sqlite_url: str, form: Any
) -> None:
    comparison = exports.comparison
    for _ in range(4):
        grow(comparison.ledger, 1, "key:1")
        grow(comparison.ledger, 1, "key:2")
    catch_up(comparison.log, comparison.ledger)
    world = World(exports, Tampered(sqlite_url))
    world.database.disarm()
    delete(world, 4)
    with pytest.raises(MismatchError, match="position 4"):
        exports.some(AUDITOR, SOME, form, REQUEST)
    alarm = comparison.alarms.current()
    assert alarm
    assert (alarm.finding.kind, alarm.finding.position, world.told()) == (Kind.MISSING, 4, 0)
    world.database.close()


def test_a_page_missing_a_deleted_entry_raises_an_alarm(world: World) -> None:
    delete(world, 6)
    page = Audit(world.comparison).page(AUDITOR, {"key_id": "2"}, 1, None)
    assert (page.entries, page.next_cursor) == ([], 6)
    alarm = world.comparison.alarms.current()
    assert alarm
    assert (alarm.finding.kind, alarm.finding.position) == (Kind.MISSING, 6)


@pytest.mark.parametrize("tamper", [lambda world: unlist(world, 5), list_twice])
def test_an_export_is_refused_if_the_search_index_differs_from_the_ledger(
    world: World, tamper: Callable[[World], None]
) -> None:
    tamper(world)
    with pytest.raises(SearchIndexError, match=r"position [59]\b.*keyledger audit reindex"):
        world.exports.some(AUDITOR, SOME, "jsonl", REQUEST)
    assert (world.told(), world.comparison.alarms.current()) == (0, None)
    world.log.reindex(lambda *_: None)
    assert len([*world.exports.some(AUDITOR, SOME, "jsonl", REQUEST).lines]) == 4


def test_a_log_missing_its_last_entry_is_not_exported(world: World) -> None:
    world.comparison.alarms.mark_end()
    delete(world, 9)
    for _ in range(2):  # the alarm stays
        with pytest.raises(AlarmError, match="keyledger audit check"):
            world.exports.some(AUDITOR, SOME, "jsonl", REQUEST)
    assert world.told() == 0


@pytest.mark.parametrize(
    ("criteria", "positions"),
    [
        ({}, [*range(1, 9)]),
        ({"name": "billing"}, [1, 4, 5]),
        ({"name": "nothing"}, []),
        ({"name": "…"}, []),
        ({"actor": "ann@example.org", "type": "KeyCreated"}, [1, 2]),
        ({"involving": "2"}, [2, 3, 6, 7]),
        ({"ip": "192.0.2.7", "since": AT + 2, "until": AT + 5}, [2, 3, 4]),
        ({"q": "jose orders"}, [2]),
        ({"q": "ORDERS"}, [1, 2]),
        ({"q": "order"}, []),
        ({"actor_kind": "key"}, []),
    ],
)
def test_ledger_and_index_select_the_same_entries(
    exports: Exports, criteria: dict[str, Any], positions: list[int]
) -> None:
    comparison = exports.comparison
    events = [
        record(1, created("Billing"), subject="key:1"),
        record(2, created("José"), subject="key:2"),
        *(record(n, subject=f"key:{2 if n in {3, 6, 7} else 1 if n < 6 else 3}") for n in range(3, 9)),
        record(9, created("Billing too"), subject="key:3"),  # later than the export
    ]
    write(comparison.ledger, comparison.log, events)
    filters = Filters(workspace="default", **criteria)
    assert [*selected(comparison.ledger, filters, 8)] == positions
    assert [entry.position for entry in comparison.log.search.ascending(filters, 8)] == positions


def test_an_old_copy_of_the_ledger_is_reported_as_shorter_not_as_changed(world: World, store: Redis) -> None:
    store.xdel(LOG, "0-8", "0-9")
    found = [each.integrity for each in world.comparison.compared([*world.log.walk(9)])]
    assert found == ["ok"] * 7 + ["ledger_shorter"] * 2
    with pytest.raises(LedgerShorterError, match="ends at position 7"):
        world.exports.some(AUDITOR, SOME, "jsonl", REQUEST)
    with pytest.raises(LedgerShorterError):
        world.exports.whole(AUDITOR, "jsonl", REQUEST, lambda *_: None)
    alarm = world.comparison.alarms.current()
    assert alarm
    assert (alarm.finding.kind, alarm.finding.position) == (Kind.LEDGER_SHORTER, 8)


def test_a_forged_entry_past_the_ledgers_end_is_marked_as_changed(world: World, store: Redis) -> None:
    store.xdel(LOG, "0-8", "0-9")
    world.database.change(9, "at = at + 1")
    assert world.mismatches() == [9]
