"""The projection, its checkpoint, the rebuild and its check, on every kind of store."""

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest
from redis import Redis

from services.keys.commands import KeyCommands, fold
from services.keys.model.key import ChangeKey, Key
from services.keys.queries import Keys
from services.keys.read_model.criteria import Criteria
from services.keys.read_model.generations import Generation, Views
from services.keys.read_model.index import moves
from services.keys.read_model.operations import retry, status
from services.keys.read_model.projection import Changes, read
from services.keys.read_model.projector import Projector
from services.keys.read_model.rebuild import build
from services.keys.read_model.rebuild.build import RebuildError
from services.keys.read_model.rebuild.lease import LeaseTakenError, lease
from services.keys.read_model.rebuild.replay import check, replay
from shared.clock import FIRST_TIME, LAST_TIME
from shared.eventstore.envelope import Event, Record, UnreadableEventError
from shared.eventstore.ledger import LOG, Checkpoint, Ledger
from tests.support.principals import REQUEST, new_key, now, principal


class Keyledger:
    """Commands, ledger and views on one store."""

    def __init__(self, store: Redis) -> None:
        self.store = store
        self.ledger = Ledger(store)
        self.views = Views(store)
        self.projector = Projector(self.ledger, self.views)
        ids = (f"event-{number}" for number in count(1))
        self.commands = KeyCommands(self.ledger, "kl", random.Random(3).randrange, ids.__next__, now)

    def create(self, name: str, workspace: str = "default") -> str:
        return self.commands.create(principal(workspace), new_key(name=name), REQUEST).key.id

    def toggle(self, key_id: str, *, enabled: bool) -> None:
        self.commands.change(principal(), key_id, ChangeKey(enabled=enabled), REQUEST)

    def project(self) -> None:
        while self.projector.step(wait_ms=1):
            pass

    def listed(self, workspace: str = "default") -> list[Key]:
        return self.views.page(workspace, 100).keys

    def folded(self, *key_ids: str) -> list[Key]:
        return [fold(self.ledger.history(f"key:{key_id}")) for key_id in key_ids]


@pytest.fixture
def kl(any_store: Redis) -> Keyledger:
    return Keyledger(any_store)


def test_the_list_is_the_fold_of_the_events_newest_first(kl: Keyledger) -> None:
    first, second = kl.create("first"), kl.create("second")
    kl.toggle(first, enabled=False)
    kl.project()
    assert kl.listed() == kl.folded(second, first)
    assert kl.views.live().checkpoint() == kl.ledger.head()


def test_every_kind_of_change_to_a_key_shows_in_the_list(kl: Keyledger) -> None:
    key, other = kl.create("one"), kl.create("other")
    change = ChangeKey(reason="asked for", details={"name": "renamed", "scopes": ("a",), "expires_at": 2**52})
    kl.commands.change(principal(), key, change, REQUEST)
    kl.commands.rotate(principal(), key, 60, REQUEST)
    kl.commands.revoke(principal(), key, "leaked", REQUEST)
    kl.project()
    assert kl.listed() == kl.folded(other, key)
    row = kl.listed()[1]
    assert (row.name, row.status(0), row.version) == ("renamed", "revoked", 4)
    replay(kl.ledger, kl.views)
    assert kl.listed() == kl.folded(other, key)


def test_each_workspace_has_its_own_list(kl: Keyledger) -> None:
    kl.create("ours", "a")
    kl.create("theirs", "b")
    kl.project()
    assert [key.name for key in kl.listed("a")] == ["ours"]


def test_pages_follow_each_other_without_gaps_or_repeats(kl: Keyledger) -> None:
    made = [kl.create(str(number)) for number in range(7)]
    kl.project()
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = kl.views.page("default", 3, cursor)
        seen += [key.id for key in page.keys]
        cursor, pages = page.next_cursor, pages + 1
    assert (seen, pages) == (made[::-1], 3)


def test_a_list_is_filtered_and_sorted_by_its_criteria(kl: Keyledger) -> None:
    keys = [kl.create(name) for name in ("Straße", "Billing", "billing again")]
    kl.toggle(keys[1], enabled=False)
    kl.project()

    def listed(**criteria: Any) -> list[str]:
        return [key.id for key in kl.views.page("default", 10, criteria=Criteria(**criteria)).keys]

    assert listed(search="BILL") == [keys[2], keys[1]]
    assert listed(search="strasse") == [keys[0]]
    assert listed(search=keys[0]) == [keys[0]]
    assert listed(search="nothing") == []
    assert listed(status="inactive") == [keys[1]]
    assert listed(status="active", sort="created_at") == [keys[0], keys[2]]


def test_a_batch_that_another_projector_saved_first_writes_nothing(kl: Keyledger) -> None:
    kl.create("one")
    live, records = kl.views.live(), kl.ledger.read(0, 10)
    changes = live.changes(read(records))
    kl.project()
    assert not live.save(Checkpoint(0, ""), changes, Checkpoint(1, "late"))
    assert live.checkpoint() == kl.ledger.head()


def test_a_batch_whose_checkpoint_moves_during_the_save_writes_nothing(
    kl: Keyledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = kl.create("one")
    live = kl.views.live()
    late = live.changes(read(kl.ledger.read(0, 1)))
    commands = Generation.commands

    def meanwhile(self: Generation, changes: Changes, reached: Checkpoint) -> Iterator[tuple[Any, ...]]:
        monkeypatch.setattr(Generation, "commands", commands)
        kl.toggle(key, enabled=False)
        kl.project()
        return commands(self, changes, reached)

    monkeypatch.setattr(Generation, "commands", meanwhile)
    assert not live.save(Checkpoint(0, ""), late, Checkpoint(1, "late"))
    assert kl.listed() == kl.folded(key)


def unreadable(kl: Keyledger, key_id: str) -> None:
    """Appends an event of a type that this version does not know."""
    stored = msgspec.json.decode(kl.ledger.read(0, 1)[0].body)
    stored |= {"subject": f"key:{key_id}", "type": "KeyTeleported", "version": 2, "id": "strange"}
    kl.store.xadd(LOG, {"at": 1, "event": msgspec.json.encode(stored)}, id="0-*")


def test_an_unreadable_event_parks_its_key_and_blocks_no_others(kl: Keyledger) -> None:
    bad = kl.create("bad")
    unreadable(kl, bad)
    good = kl.create("good")
    kl.project()
    assert "KeyTeleported" in kl.views.live().parked()[bad]
    assert [key.id for key in kl.listed()] == [good, bad]
    assert kl.views.live().checkpoint() == kl.ledger.head()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_parked_key_that_is_revoked_is_listed_as_revoked(kl: Keyledger, at_once: bool) -> None:
    bad = kl.create("bad")
    kl.project()
    unreadable(kl, bad)
    kl.store.rpush(f"{{kl:0}}:subject:key:{bad}", 2)
    if not at_once:
        kl.project()
    done = kl.commands.revoke(principal(), bad, "leaked", REQUEST)
    kl.project()
    [row] = kl.listed()
    assert (row.status(0), row.version, row.name) == ("revoked", 3, "bad")
    assert row.updated_at == done.key.updated_at
    assert bad in kl.views.live().parked()
    assert kl.views.page("default", 10, criteria=Criteria(status="active")).keys == []


@pytest.mark.parametrize("id_", ["", "../x", "a%2F?#<b>", "0" * 13])
def test_a_subject_with_an_invalid_key_id_is_parked_and_never_listed(kl: Keyledger, id_: str) -> None:
    good = kl.create("good")
    stored = msgspec.json.decode(kl.ledger.read(0, 1)[0].body) | {"subject": f"key:{id_}", "id": "strange"}
    kl.ledger.fill(1, [Record(2, 1, msgspec.json.encode(stored))])
    kl.project()
    assert [key.id for key in kl.listed()] == [good]
    assert "isn't the id of a key" in kl.views.live().parked()[id_]
    assert check(kl.ledger, kl.views).equal
    replay(kl.ledger, kl.views)
    assert id_ in status(kl.ledger, kl.views, 0).parked
    assert id_ in retry(kl.ledger, kl.views)


def test_retrying_a_parked_key_lists_it_when_the_code_can_read_it(
    kl: Keyledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = kl.create("parked")
    with monkeypatch.context() as older:
        older.setattr("services.keys.read_model.projection.evolve", refuse)
        kl.toggle(key, enabled=False)
        kl.project()
    assert "not yet" in status(kl.ledger, kl.views, 0).parked[key]
    assert kl.listed() == []
    assert retry(kl.ledger, kl.views) == {key: None}
    assert kl.listed() == kl.folded(key)
    kl.toggle(key, enabled=True)
    kl.project()
    assert kl.listed() == kl.folded(key)
    assert check(kl.ledger, kl.views).equal


def refuse(_: Key | None, event: Event) -> Key:
    raise UnreadableEventError(event.position, event.subject, "not yet")


def test_a_key_that_is_still_unreadable_stays_parked(kl: Keyledger) -> None:
    bad = kl.create("bad")
    unreadable(kl, bad)
    kl.store.rpush(f"{{kl:0}}:subject:key:{bad}", 2)
    kl.project()
    assert "KeyTeleported" in (retry(kl.ledger, kl.views)[bad] or "")
    assert bad in status(kl.ledger, kl.views, 0).parked


def test_the_lag_is_measured_against_the_end_of_the_ledger(kl: Keyledger) -> None:
    kl.create("one")
    kl.project()
    kl.create("two")
    last = kl.ledger.read(1, 1)[0]
    found = status(kl.ledger, kl.views, last.at + 1_500)
    assert (found.position, found.lag) == (1, (2, 1, 1_500))
    kl.project()
    assert status(kl.ledger, kl.views, last.at + 9_000).lag.ms == 0


def test_a_replay_of_an_unreadable_event_fails_and_keeps_the_old_views(kl: Keyledger) -> None:
    bad = kl.create("bad")
    kl.project()
    unreadable(kl, bad)
    with pytest.raises(RebuildError, match="old views still serve"):
        replay(kl.ledger, kl.views)
    assert [key.id for key in kl.listed()] == [bad]


def test_a_replay_produces_the_same_views_and_deletes_the_old_ones(kl: Keyledger) -> None:
    first = kl.create("first")
    kl.toggle(first, enabled=False)
    kl.create("second")
    kl.project()
    before, old = kl.listed(), kl.views.live()
    assert replay(kl.ledger, kl.views) == 3
    assert kl.listed() == before
    assert kl.views.live() != old
    assert not list(old.entries())
    assert check(kl.ledger, kl.views).equal


@pytest.fixture(autouse=True)
def _no_readers_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.keys.read_model.rebuild.replay._OLD_GENERATION_S", 0)


def test_a_replay_sees_the_rows_of_pages_that_are_not_yet_written(
    kl: Keyledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LateWriter(build._Writer):
        """Sends each page late, as a slow network might."""

        _late: list[bytes] | None = None

        def _send(self, commands: list[bytes]) -> None:
            self._late = commands

        def finish(self) -> None:
            if self._late:
                super()._send(self._late)
                self._late = None
            super().finish()

    monkeypatch.setattr(build, "_Writer", LateWriter)
    monkeypatch.setattr(build, "_PAGE", 1)
    keys = [kl.create("first"), kl.create("second")]
    for number in range(12):
        kl.toggle(keys[number % 5 % 2], enabled=number % 3 == 0)
    replay(kl.ledger, kl.views)
    assert kl.listed() == kl.folded(*keys[::-1])


def test_a_replay_indexes_each_key_once_in_its_final_state(
    kl: Keyledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_PAGE", 1)
    put: list[tuple[Key | None, int]] = []

    def moved(before: Key | None, after: Key) -> Any:
        put.append((before, after.version))
        return moves(before, after)

    keys = [kl.create("first"), kl.create("second")]
    for enabled in (False, True, False):
        kl.toggle(keys[0], enabled=enabled)
    monkeypatch.setattr("services.keys.read_model.generations.moves", moved)
    replay(kl.ledger, kl.views)
    assert put == [(None, 4), (None, 1)]
    assert kl.listed() == kl.folded(*keys[::-1])
    assert not [*kl.store.scan_iter("{kl:0}:view:*:unindexed")]


def test_a_replay_restores_partly_or_completely_deleted_views(kl: Keyledger) -> None:
    keys = [kl.create(str(number)) for number in range(3)]
    kl.project()
    before = kl.listed()
    for name in [*kl.store.scan_iter("{kl:0}:view:*")][::2]:
        kl.store.delete(name)
    replay(kl.ledger, kl.views)
    assert kl.listed() == before
    for name in [*kl.store.scan_iter("{kl:0}:view:*")]:
        kl.store.delete(name)
    assert kl.listed() == []
    replay(kl.ledger, kl.views)
    assert kl.listed() == before == kl.folded(*keys[::-1])


def test_the_old_views_are_served_during_a_replay(kl: Keyledger) -> None:
    kl.create("one")
    kl.project()
    seen: list[int] = []
    replay(kl.ledger, kl.views, lambda *_: seen.append(len(kl.listed())))
    assert set(seen) == {1}


def test_events_appended_during_a_replay_are_in_the_new_views(kl: Keyledger) -> None:
    kl.create("before")
    kl.project()
    late: list[str] = []

    def meanwhile(_done: int, _total: int) -> None:
        if not late:
            late.append(kl.create("meanwhile"))
            kl.project()

    replay(kl.ledger, kl.views, meanwhile)
    assert kl.listed()[0].id == late[0]


def test_an_aborted_replay_changes_nothing_and_the_next_one_cleans_up(kl: Keyledger) -> None:
    kl.create("one")
    kl.project()
    before = kl.listed()

    def give_up(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(kl.ledger, kl.views, give_up)
    assert kl.listed() == before
    replay(kl.ledger, kl.views)
    assert len([*kl.store.scan_iter("{kl:0}:view:*:checkpoint")]) == 1


def test_only_one_replay_runs_at_a_time(kl: Keyledger) -> None:
    with lease(kl.views), pytest.raises(LeaseTakenError):
        replay(kl.ledger, kl.views)


def test_a_reader_of_a_deleted_generation_switches_to_the_new_one(kl: Keyledger) -> None:
    key = kl.create("one")
    kl.project()
    stale = kl.views.live()
    replay(kl.ledger, kl.views)

    class Late(Views):
        def live(self) -> Generation:
            looks.append(1)
            return stale if len(looks) == 1 else super().live()

    looks: list[int] = []
    assert len(Late(kl.store).page("default", 10).keys) == 1
    looks.clear()
    assert Late(kl.store).find(key) == (kl.listed()[0], 1)


@pytest.mark.parametrize(
    "damage", ["row changed", "row missing", "row added", "place missing", "place added", "text missing"]
)
def test_a_check_names_the_entry_that_differs(kl: Keyledger, damage: str) -> None:
    kl.create("one")
    key = kl.create("two")
    kl.project()
    assert check(kl.ledger, kl.views).equal
    root = kl.views.generation("first").checkpoint_key.removesuffix("checkpoint")
    match damage:
        case "row changed":
            row = msgspec.structs.replace(kl.listed()[0], name="three")
            kl.store.set(f"{root}key:{key}", msgspec.json.encode(row))
        case "row missing":
            kl.store.delete(f"{root}key:{key}")
        case "row added":
            kl.store.copy(f"{root}key:{key}", f"{root}key:zzzzzzzzzzzz")
        case "place missing":
            kl.store.zrem(f"{root}index:enabled:default", f"0000000002{key}")
        case "place added":
            kl.store.zadd(f"{root}index:enabled:default", {"zzzzzzzzzzzz": 9})
        case "text missing":
            [member] = kl.store.zrangebylex(f"{root}index:names:default", "[two", "(twp")
            kl.store.zrem(f"{root}index:names:default", member)
    found = check(kl.ledger, kl.views)
    assert not found.equal
    assert len(found.differing) == 1
    assert ("zzzzzzzzzzzz" if "added" in damage else key) in found.differing[0]


def test_entries_that_the_store_scans_twice_are_returned_once(
    kl: Keyledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        kl.create(f"key {number}")
    kl.project()
    once = sorted(kl.views.live().entries())
    scan = Generation._scan
    monkeypatch.setattr(Generation, "_scan", lambda self: (2 * names for _ in "ab" for names in scan(self)))
    assert sorted(kl.views.live().entries()) == once
    assert len({entry.name for entry in once}) == len(once) > 9


def test_a_check_pauses_the_projectors_and_leaves_no_copy(
    kl: Keyledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    kl.create("one")
    kl.project()
    kl.create("two")
    steps: list[int] = []
    entries = Generation.entries

    def while_compared(self: Generation) -> object:
        steps.append(kl.projector.step(wait_ms=1))
        return entries(self)

    monkeypatch.setattr(Generation, "entries", while_compared)
    assert check(kl.ledger, kl.views).equal
    assert set(steps) == {0}
    kl.project()
    assert len(kl.listed()) == 2
    assert len([*kl.store.scan_iter("{kl:0}:view:*:checkpoint")]) == 1


def test_the_projector_rebuilds_when_the_ledger_went_backwards(kl: Keyledger) -> None:
    kept = kl.create("kept")
    kl.create("lost")
    kl.project()
    kl.store.xdel(LOG, "0-2")
    kl.project()
    assert [key.id for key in kl.listed()] == [kept]
    assert kl.views.live().checkpoint().position == 1


def test_a_ledger_that_went_backwards_and_grew_past_the_checkpoint_is_detected(kl: Keyledger) -> None:
    kept = kl.create("kept")
    lost = kl.create("lost")
    kl.project()
    record = kl.ledger.read(0, 1)[0]
    kl.store.delete(LOG, f"{{kl:0}}:subject:key:{lost}")
    kl.store.xadd(LOG, {"at": record.at, "event": record.body}, id="0-*")
    later = [kl.create(f"later {number}") for number in range(3)]
    kl.project()
    assert [key.id for key in kl.listed()] == [*later[::-1], kept]
    assert check(kl.ledger, kl.views).equal


def test_a_reader_waits_for_a_position_and_reports_a_timeout(
    kl: Keyledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    kl.create("one")
    monkeypatch.setattr("services.keys.read_model.generations._WAIT_S", 0.05)
    assert not kl.views.wait_for(1)
    kl.project()
    assert kl.views.wait_for(1)


@pytest.mark.parametrize("at", [LAST_TIME + 60_000, 2**63, 10**30, -(10**30)])
def test_a_key_with_an_unprintable_expiry_can_be_listed_changed_and_revoked(kl: Keyledger, at: int) -> None:
    key = kl.commands.create(principal(), new_key(name="poisoned", expires_at=at), REQUEST).key.id
    kl.project()
    assert [LAST_TIME if at > 0 else FIRST_TIME] == [row.expires_at for row in kl.listed()]
    kl.commands.change(principal(), key, ChangeKey(details={"name": "renamed"}), REQUEST)
    kl.commands.change(principal(), key, ChangeKey(details={"expires_at": None}), REQUEST)
    kl.commands.revoke(principal(), key, None, REQUEST)
    kl.project()
    assert kl.listed() == kl.folded(key)
    assert (kl.listed()[0].name, kl.listed()[0].expires_at) == ("renamed", None)
    replay(kl.ledger, kl.views)
    assert kl.listed() == kl.folded(key)


def test_a_position_beyond_the_end_of_the_ledger_is_not_waited_for(
    commands: KeyCommands, fake_store: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(Views, "wait_for", lambda _, position: waited.append(position))
    assert Keys(commands, Views(fake_store)).reached(2**40) == (0, True)
    assert waited == [0]
