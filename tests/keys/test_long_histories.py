"""A key with thousands of events: queries read only the events that they need."""

import random
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TypeVar

import pytest
from redis import Redis

from services.keys.commands import KeyCommands, NoSuchKeyError, fold
from services.keys.model.key import ChangeKey, subject
from services.keys.queries import Keys
from services.keys.read_model import generations
from services.keys.read_model.generations import Views
from services.keys.read_model.projector import Projector
from shared.eventstore.envelope import enveloped
from shared.eventstore.events import KeyToggled
from shared.eventstore.ledger import Ledger
from shared.eventstore.point_in_time import Position
from tests.support.principals import REQUEST, new_key, now, principal

TOGGLES = 4_000
_T = TypeVar("_T")


@pytest.fixture
def keys(store: Redis) -> Keys:
    ids = (f"event-{number}" for number in count(1))
    commands = KeyCommands(Ledger(store), "kl", random.Random(7).randrange, ids.__next__, now)
    return Keys(commands, Views(store))


@pytest.fixture
def key_id(keys: Keys) -> str:
    key = keys.commands.create(principal(), new_key(name="Toggled"), REQUEST).key
    events = enveloped(
        [KeyToggled(enabled=bool(number % 2), reason="") for number in range(TOGGLES)],
        subject=subject(key.id),
        after_version=1,
        workspace="default",
        actor=principal().actor,
        request=REQUEST,
        new_id=keys.commands.new_id,
    )
    keys.commands.ledger.append(subject(key.id), events, 1)
    return key.id


def project(keys: Keys) -> None:
    projector = Projector(keys.commands.ledger, keys.views)
    while projector.step(wait_ms=1):
        pass


def reads(store: Redis, act: Callable[[], _T]) -> tuple[_T, int]:
    """The result of a call, and how many XRANGE commands the store ran for it."""
    store.config_resetstat()
    result = act()
    stats = store.info("commandstats")
    return result, stats.get("cmdstat_xrange", {"calls": 0})["calls"]


def test_a_page_of_a_history_reads_only_its_own_events(store: Redis, keys: Keys, key_id: str) -> None:
    for after in (0, 10, TOGGLES - 5):
        page, read = reads(store, partial(keys.history, principal(), key_id, after, 20))
        assert [event.version for event in page.events] == list(range(after + 1, TOGGLES + 2))[:20]
        assert page.more == (after + 20 < TOGGLES + 1)
        assert read <= 22


def test_a_cursor_past_the_end_returns_an_empty_page(keys: Keys, key_id: str) -> None:
    for after in (TOGGLES + 1, 2**53):
        assert keys.history(principal(), key_id, after, 20) == ([], False)


def test_the_current_state_is_read_from_the_row_and_the_events_after_it(
    store: Redis, keys: Keys, key_id: str
) -> None:
    before = keys.present(principal(), key_id)
    project(keys)
    present, read = reads(store, lambda: keys.present(principal(), key_id))
    assert present == before == fold(keys.events(key_id))
    assert read <= 2
    keys.commands.change(
        principal(), key_id, ChangeKey(details={"name": "Renamed"}), REQUEST
    )  # and the views lag
    present, read = reads(store, lambda: keys.present(principal(), key_id))
    assert (present.name, present.version) == ("Renamed", TOGGLES + 2)
    assert read <= 3


def test_a_key_that_the_views_lack_is_read_from_the_ledger(
    keys: Keys, key_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "_WAIT_S", 0)
    written = keys.commands.ledger.head().position
    assert keys.find(principal(), key_id, written) == (keys.present(principal(), key_id), written, False)
    _, position, behind = keys.find(principal(), key_id, written + 1)
    assert (position, behind) == (written, True)
    for caller, unknown in ((principal("other"), key_id), (principal(), "000000000000")):
        with pytest.raises(NoSuchKeyError):
            keys.find(caller, unknown, written)


def test_a_row_that_is_ahead_of_the_ledger_is_ignored(store: Redis, keys: Keys, key_id: str) -> None:
    project(keys)
    store.rpop(f"{{kl:0}}:subject:{subject(key_id)}")
    assert keys.present(principal(), key_id).version == TOGGLES


def test_reading_an_early_state_does_not_read_the_whole_history(
    store: Redis, keys: Keys, key_id: str
) -> None:
    found, read = reads(store, lambda: keys.past(principal(), key_id, Position(3)))
    assert (found.key.version, found.last.position) == (3, 3)
    assert read < TOGGLES // 4


def test_checking_that_a_workspace_has_a_key_reads_one_event(store: Redis, keys: Keys, key_id: str) -> None:
    _, read = reads(store, lambda: keys.check_known(principal(), key_id))
    assert read == 1
