"""The list of keys: search, order and pages, compared with a simple model after any history."""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count, product, starmap
from typing import Any, NamedTuple, cast
from unicodedata import normalize
from unittest.mock import patch

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType
from redis import Redis

from services.keys.commands import KeyCommands, fold
from services.keys.model.key import STATUSES, ChangeKey, Key, RefusedError, Status, subject
from services.keys.read_model import query as listing
from services.keys.read_model.criteria import SORTS, Criteria, Sort
from services.keys.read_model.cursor import CursorError
from services.keys.read_model.generations import Views
from services.keys.read_model.operations import retry
from services.keys.read_model.projector import Projector
from services.keys.read_model.query import Page
from services.keys.read_model.rebuild.replay import check, replay
from services.keys.verification.usage import Usage
from shared.eventstore.envelope import Event, UnreadableEventError
from shared.eventstore.ledger import Ledger
from tests.support.principals import REQUEST, new_key, now, principal

_ASKED = 40  # lists of one history
_WORKSPACES = ("ours", "theirs")
_SELDOM, _OFTEN = {"_LIKELY": 0.001}, {"_LIKELY": 10**9}  # whether it is first tried in order
_PLANS: dict[str, dict[str, Any]] = {
    "as it is": {"_LIKELY": listing._LIKELY},
    "always in order": {"_MAX_GATHERED": -1},
    "tried in order, then gathered": {"_TRIED": 1, "_A_TIME": 2} | _OFTEN,
    "gathered and sorted": _SELDOM,
    "gathered and sorted, a few at a time": {"_A_TIME": 2} | _SELDOM,
    "gathered, then in order": {"_MAX_SORTED": 0} | _SELDOM,
    "short pages": {"_MAX_ROWS": 2, "_MAX_PLACES": 2, "_TRIED": 1} | _OFTEN,
}


class World:
    """Commands, ledger and views on one store."""

    def __init__(self, store: Redis) -> None:
        self.store = store
        self.ledger, self.views = Ledger(store), Views(store)
        self.projector = Projector(self.ledger, self.views)
        ids = (f"event-{number}" for number in count(1))
        self.commands = KeyCommands(self.ledger, "kl", random.Random(5).randrange, ids.__next__, now)
        self.ids: list[str] = []

    def create(self, name: str, expires_at: int | None = None, workspace: str = "ours") -> str:
        new = new_key(name=name, expires_at=expires_at)
        self.ids.append(self.commands.create(principal(workspace), new, REQUEST).key.id)
        return self.ids[-1]

    def change(self, key_id: str, *, enabled: bool | UnsetType = UNSET, **details: Any) -> None:
        command = ChangeKey(enabled=enabled, details=details)
        self.commands.change(principal(self.key(key_id).workspace), key_id, command, REQUEST)

    def key(self, key_id: str) -> Key:
        return fold(self.ledger.history(subject(key_id)))

    def project(self) -> None:
        while self.projector.step(wait_ms=1):
            pass

    def listed(self, criteria: Criteria, limit: int, workspace: str = "ours") -> list[Key]:
        """The keys of all pages."""
        keys, page, cursors = list[Key](), Page([], ""), set[str | None]()
        while page.next_cursor is not None:
            page = self.views.page(workspace, limit, page.next_cursor or None, criteria)
            assert len(page.keys) <= limit
            assert page.next_cursor not in cursors
            cursors.add(page.next_cursor)
            keys += page.keys
        return keys

    def names(self, search: str = "", status: Status | None = None, sort: Sort = "created_at") -> list[str]:
        return [key.name for key in self.listed(Criteria(search, status, sort), 2)]

    def index(self) -> dict[bytes, list[tuple[bytes, float]]]:
        """The contents of the index, by name without the generation."""
        found = {}
        for name in self.store.scan_iter("{kl:0}:view:*:index:*"):
            found[name.partition(b":index:")[2]] = cast(
                "Any", self.store.zrange(name, 0, -1, withscores=True)
            )
        return found


@pytest.fixture
def world(any_store: Redis) -> World:
    return World(any_store)


@pytest.fixture(autouse=True)
def _no_readers_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.keys.read_model.rebuild.replay._OLD_GENERATION_S", 0)


def test_a_search_matches_the_start_of_any_word(world: World) -> None:
    for name in ("Data Sync Script", "data-base", "Big data", "metadata", "Straße_7", "CAFÉ", "हिन्दी भाषा"):
        world.create(name)
    world.project()
    assert world.names("data") == ["Data Sync Script", "data-base", "Big data"]
    assert world.names("data-sync") == world.names("SCR dat") == ["Data Sync Script"]
    assert world.names("ync") == world.names("data syncs") == world.names("data nothing") == []
    assert world.names("STRASSE") == world.names("7") == ["Straße_7"]
    assert world.names("cafe\u0301") == world.names("caf") == ["CAFÉ"]
    assert world.names("भा") == world.names("हिन्") == ["हिन्दी भाषा"]
    assert world.names("-!-") == []
    assert len(world.names("  ")) == 7


def test_a_long_name_without_spaces_is_found_by_any_part_of_it(world: World) -> None:
    name = "".join(map(chr, range(0x4E00, 0x4E00 + 100)))
    world.create(name)
    world.project()
    for at in (0, 63, 64, 70, 98):
        assert world.names(name[at : at + 2]) == world.names(name[at:]) == [name], at


@pytest.mark.parametrize("plan", _PLANS)
def test_a_search_matches_a_whole_id_but_not_part_of_one(world: World, plan: str) -> None:
    ours, theirs = world.create("ours"), world.create("theirs", workspace="theirs")
    world.create(f"after {ours}")
    world.project()
    with patch.multiple(listing, **_PLANS[plan]):
        for sort in SORTS:
            assert sorted(world.names(ours, sort=sort)) == [f"after {ours}", "ours"]
            assert world.names(f" {ours} ", "revoked", sort) == []
            assert world.names(theirs, sort=sort) == []
        assert world.names(ours[:11]) == [f"after {ours}"]


def test_words_with_the_highest_code_points_are_found_and_sorted(world: World) -> None:
    names = ("\U0010fffd", "\U0003134a", "\U0003134a\U0003134a", "z", "zz", "z z", "é", "!!")
    for name in names:
        world.create(name)
    world.project()
    assert world.names("\U0003134a") == ["\U0003134a", "\U0003134a\U0003134a"]
    assert world.names("z") == ["z", "zz", "z z"]
    assert world.names(sort="name") == ["\U0010fffd", "!!", "é", "z", "z z", "zz", *names[1:3]]


def test_a_search_matches_a_word_anywhere_in_a_name_without_spaces(world: World) -> None:
    for name in ("東京都庁 API", "京都", "大阪", "José Ñandú", "ＤＡＴＡ"):
        world.create(name)
    world.project()
    assert world.names("京都") == world.names("都") == ["東京都庁 API", "京都"]
    assert world.names("都庁 api") == world.names("庁") == ["東京都庁 API"]
    assert world.names("京庁") == world.names("阪大") == []
    assert world.names("jose nandu") == world.names("Jose\u0301") == ["José Ñandú"]
    assert world.names("data") == ["ＤＡＴＡ"]


@pytest.mark.parametrize("character", ["\ufdfa", "龘", "𠮷", "ﬃ", "\u0390", "a b "])
def test_the_index_entries_of_a_long_name_are_bounded(world: World, character: str) -> None:
    world.create("before")
    long = "".join(chr(ord("一") + n) for n in range(100)) if character == "龘" else (character * 100)[:100]
    world.create(long)
    world.create("after")
    world.project()
    members = [member for of_kind in world.index().values() for member, _ in of_kind]
    assert len(members) < 150
    assert max(map(len, members)) < 1_500  # what a cursor can hold
    assert len(world.names(sort="name")) == len(world.names(sort="-name")) == 3  # by cursors of that size
    assert world.names(long) == [long]


def test_a_renamed_key_is_found_only_by_its_new_name(world: World) -> None:
    key = world.create("old words here")
    world.project()
    before = world.index()
    # Two changes in one page of events; the change below has its own page.
    for name in ("middle", "new words"):
        world.change(key, name=name)
    world.project()
    assert world.names("old") == world.names("here") == world.names("middle") == []
    assert world.names("word") == world.names("new") == ["new words"]
    world.change(key, name="old words here")
    world.project()
    assert world.index() == before


def test_status_changes_and_rotations_leave_no_stale_index_entries(world: World) -> None:
    key = world.create("one", expires_at=2**52)
    world.project()
    before = world.index()
    world.change(key, enabled=False, expires_at=2**51)
    world.project()
    assert set(world.index()) == {b"inactive:ours", b"names:ours", b"hints:ours"}
    world.change(key, enabled=True, expires_at=2**52)
    world.project()
    assert world.index() == before
    world.commands.rotate(principal("ours"), key, 60, REQUEST)
    world.commands.revoke(principal("ours"), key, None, REQUEST)
    world.project()
    kept = world.index()
    assert set(kept) == {b"revoked:ours", b"names:ours", b"hints:ours"}
    assert [member.startswith(world.key(key).hint.encode()) for member, _ in kept[b"hints:ours"]] == [True]


def test_a_parked_key_that_is_retried_leaves_no_stale_index_entries(world: World) -> None:
    key = world.create("before")
    world.project()
    with patch("services.keys.read_model.projection.evolve", _refuse):
        world.change(key, name="after")
        world.project()
    assert world.names("before") == ["before"]
    assert retry(world.ledger, world.views) == {key: None}
    assert (world.names("before"), world.names("after")) == ([], ["after"])
    assert check(world.ledger, world.views).equal


def _refuse(_: Key | None, event: Event) -> Key:
    raise UnreadableEventError(event.position, event.subject, "not yet")


def test_a_page_reads_a_limited_number_of_rows(world: World) -> None:
    for name in ("sought a", *"bcdefg"):
        world.create(name)
    world.project()
    criteria = Criteria(search="sought")
    with patch.multiple(listing, _MAX_GATHERED=-1, _TRIED=0, _MAX_ROWS=4, _A_TIME=2):
        short = world.views.page("ours", 1, None, criteria)
        assert short.keys == []
        assert short.next_cursor is not None
        assert [key.name for key in world.listed(criteria, 1)] == ["sought a"]


def test_a_cursor_is_valid_only_for_its_sort_order(world: World) -> None:
    for name in "ab":
        world.create(name)
    world.project()
    for sort in SORTS:
        cursor = world.views.page("ours", 1, None, Criteria(sort=sort)).next_cursor
        assert cursor is not None
        assert cursor.startswith(f"{sort}.")
        for other in set(SORTS) - {sort}:
            with pytest.raises(CursorError):
                world.views.page("ours", 1, cursor, Criteria(sort=other))


@pytest.mark.parametrize(
    "cursor", ["x", "17", "name", "name.A", "name.=", "name.a.b", "status.gone.", "-up.AAAA"]
)
def test_an_invalid_cursor_is_rejected(world: World, cursor: str) -> None:
    with pytest.raises(CursorError):
        world.views.page("ours", 1, cursor, Criteria(sort="name"))


def test_the_last_use_of_several_keys_is_read_in_one_call(any_store: Redis) -> None:
    usage = Usage(any_store)
    for at in (1_000, 3_000, 2_000):
        usage.note(("used", "VALID", at))
    usage.flush()
    assert usage.last_used(["used", "unused"]) == {"used": 3_000}
    assert usage.last_used([]) == {}


# Any history.

_WORD = st.sampled_from(["a", "ab", "abc", "b", "B", "é", "ß", "ΣΑΣ", "7", "𐐀", "日本"])
_NAME = st.lists(_WORD | st.sampled_from(["-", "_", " ", "!"]), min_size=1, max_size=5).map(" ".join)
_PAST, _FUTURE = 1_000, 2**52


class Step(NamedTuple):
    """A change to an existing key, or the creation of another."""

    act: str
    which: int
    name: str


_STEP = st.builds(
    Step,
    st.sampled_from(
        ("create", "create", "rename", "off", "on", "revoke", "rotate", "end", "endless", "project")
    ),
    st.integers(0, 20),
    _NAME,
)


def _create(world: World, step: Step) -> None:
    expires_at = (None, None, _PAST, _FUTURE)[step.which % 4]
    world.create(step.name, expires_at, _WORKSPACES[step.which % 3 == 0])


def _revoke(world: World, step: Step) -> None:
    key = world.key(_picked(world, step))
    world.commands.revoke(principal(key.workspace), key.id, None, REQUEST)


def _rotate(world: World, step: Step) -> None:
    key = world.key(_picked(world, step))
    world.commands.rotate(principal(key.workspace), key.id, 60, REQUEST)


def _picked(world: World, step: Step) -> str:
    return world.ids[step.which % len(world.ids)]


_ACTS: Mapping[str, Callable[[World, Step], None]] = {
    "create": _create,
    "rename": lambda world, step: world.change(_picked(world, step), name=step.name),
    "off": lambda world, step: world.change(_picked(world, step), enabled=False),
    "on": lambda world, step: world.change(_picked(world, step), enabled=True),
    "end": lambda world, step: world.change(
        _picked(world, step), expires_at=(_PAST, _FUTURE)[step.which % 2]
    ),
    "endless": lambda world, step: world.change(_picked(world, step), expires_at=None),
    "revoke": _revoke,
    "rotate": _rotate,
    "project": lambda world, _: world.project(),
}


def _live_through(world: World, steps: list[Step]) -> None:
    for step in steps:
        if world.ids or step.act == "create":
            try:
                _ACTS[step.act](world, step)
            except RefusedError:  # what is revoked stays so
                continue
    world.project()


def _plain_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", re.sub("[\u0300-\u036f]", "", normalize("NFD", text.casefold())))


def _expected(world: World, workspace: str, criteria: Criteria) -> list[str]:
    """The list that a simple model expects."""
    keys = [key for key in map(world.key, world.ids) if key.workspace == workspace]
    keys.sort(key=lambda key: key.created_position)
    orders: Mapping[str, Callable[[Key], Any]] = {
        "created_at": lambda key: key.created_position,
        "name": lambda key: " ".join(_plain_words(key.name)).encode(),
        "hint": lambda key: key.hint.encode(),
        "status": lambda key: key.status(now()),
    }
    column = criteria.sort.removeprefix("-")
    if column == "status":  # each newest first
        keys.reverse()
        keys.sort(key=orders[column])
        if criteria.sort == "-status":
            keys = [key for status in sorted(STATUSES)[::-1] for key in keys if key.status(now()) == status]
    else:
        keys.sort(key=orders[column])
        if criteria.sort.startswith("-"):
            keys.reverse()
    return [key.id for key in keys if _is_listed(key, criteria)]


def _is_listed(key: Key, criteria: Criteria) -> bool:
    begins = all(
        any(word.startswith(sought) for word in _plain_words(key.name))
        for sought in _plain_words(criteria.search)
    )
    found = (
        not criteria.search or key.id == criteria.search or (begins and bool(_plain_words(criteria.search)))
    )
    return found and criteria.status in {None, key.status(now())}


def _criteria(world: World) -> Iterator[Criteria]:
    searches = ("", "a", "AB", "b a", "é", "ss", "日", "!", *world.ids[:1])
    return starmap(Criteria, product(searches, (None, *STATUSES), SORTS))


def _is_sound(world: World, asked: random.Random, limit: int, plan: str) -> None:
    with patch.multiple(listing, **_PLANS[plan]):
        for criteria in asked.sample([*_criteria(world)], _ASKED):
            for workspace in _WORKSPACES:
                found = [key.id for key in world.listed(criteria, limit, workspace)]
                assert found == _expected(world, workspace, criteria), (criteria, workspace)
    live = world.index()
    assert check(world.ledger, world.views).equal
    replay(world.ledger, world.views)
    assert world.index() == live


def _explore(examples: int, new_store: Callable[[], Redis], plan: str) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(_STEP, min_size=5, max_size=30), st.integers(1, 4), st.randoms(use_true_random=False))
    def explore(steps: list[Step], limit: int, asked: random.Random) -> None:
        world = World(new_store())
        _live_through(world, steps)
        _is_sound(world, asked, limit, plan)

    with (
        patch("services.keys.read_model.projector.PAGE", 7),
        patch("services.keys.read_model.rebuild.build._PAGE", 3),
    ):
        explore()


@pytest.mark.parametrize("plan", _PLANS)
def test_pages_after_any_history_list_the_matching_keys_in_order(plan: str) -> None:
    _explore(12, fakeredis.FakeRedis, plan)


@pytest.mark.parametrize("plan", _PLANS)
def test_pages_after_any_history_on_a_real_store_list_the_matching_keys(store: Redis, plan: str) -> None:
    def emptied() -> Redis:
        store.flushall()
        return store

    _explore(6, emptied, plan)
