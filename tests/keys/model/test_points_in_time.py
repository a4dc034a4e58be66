"""A key as of a point in time."""

import pytest
from redis import Redis

from services.keys.commands import KeyCommands, NoSuchKeyError, fold
from services.keys.model.key import ChangeKey
from services.keys.model.point_in_time import NotYetCreatedError, past
from services.keys.queries import Keys
from services.keys.read_model.generations import Views
from shared.eventstore.envelope import Event
from shared.eventstore.events import KeyToggled
from shared.eventstore.point_in_time import PointInTime, PointInTimeError, Position, Time, parse_point_in_time
from shared.identity import ForbiddenError
from tests.keys.model.test_key import CREATED, OFF, given
from tests.support.principals import REQUEST, new_key, principal

# Created at position 10 and time 1000, off at 20 and 2000, on at 30 and 3000.
LIFE = given(CREATED, OFF, KeyToggled(enabled=True, reason=""))


@pytest.mark.parametrize(
    ("moment", "version", "enabled"),
    [
        (Position(10), 1, True),
        (Position(19), 1, True),
        (Position(20), 2, False),
        (Position(30), 3, True),
        (Position(999), 3, True),
        (Time(1000), 1, True),
        (Time(1999), 1, True),
        (Time(2000), 2, False),
        (Time(99_000), 3, True),
    ],
)
def test_a_key_as_of_a_point_in_time_is_the_fold_of_its_events_so_far(
    moment: PointInTime, version: int, enabled: bool
) -> None:
    found = past(LIFE, moment, 0)
    assert (found.key.version, found.key.enabled, found.last.version) == (version, enabled, version)
    assert found.key == fold(LIFE[:version])


def test_reading_stops_one_event_after_the_point_in_time() -> None:
    history = iter(LIFE)
    assert past(history, Position(10), 0).step_on == LIFE[1]
    assert [*history] == LIFE[2:]


@pytest.mark.parametrize("moment", [Position(9), Time(999)])
def test_before_its_creation_a_key_is_reported_as_not_yet_created(moment: PointInTime) -> None:
    with pytest.raises(NotYetCreatedError) as refused:
        past(LIFE, moment, 0)
    assert refused.value.created.position == 10


def test_steps_lead_to_the_previous_and_next_event_and_stop_at_both_ends() -> None:
    def step(event: Event | None) -> int | None:
        return event.position if event else None

    steps = [past(LIFE, Position(at), 0) for at in (10, 20, 30)]
    assert [(step(found.step_back), step(found.step_on)) for found in steps] == [
        (None, 20),
        (10, 30),
        (20, None),
    ]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("17", Position(17)),
        ("017", Position(17)),
        ("1970-01-01T00:00:01.500Z", Time(1500)),
        ("1970-01-01T01:00:01+01:00", Time(1000)),
    ],
)
def test_a_point_in_time_is_a_position_or_a_timestamp(text: str, moment: PointInTime) -> None:
    assert parse_point_in_time(text) == moment


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "1.5", "١٧", "9" * 16, "9" * 5000, "yesterday", "2026-11-23", "2026-11-23T18:59:21"],
)
def test_an_invalid_point_in_time_is_rejected_with_examples_of_both_forms(text: str) -> None:
    with pytest.raises(PointInTimeError, match=r"2026-11-23T18:59:21\.123Z.*position of the ledger, like 17"):
        parse_point_in_time(text)


@pytest.fixture
def keys(commands: KeyCommands, fake_store: Redis) -> Keys:
    return Keys(commands, Views(fake_store))


def test_a_point_in_time_in_the_future_is_rejected(keys: Keys) -> None:
    key = keys.commands.create(principal(), new_key(name="a"), REQUEST).key
    with pytest.raises(PointInTimeError, match="in the future"):
        keys.past(principal(), key.id, Time(99_000_000_000_000))
    with pytest.raises(PointInTimeError, match="at position 1, and not yet there"):
        keys.past(principal(), key.id, Position(2))


def test_a_position_has_the_time_of_its_event_even_if_that_is_of_another_key(keys: Keys) -> None:
    key = keys.commands.create(principal(), new_key(name="a", expires_at=1), REQUEST).key
    other = keys.commands.create(principal("other"), new_key(name="b"), REQUEST).key
    found = keys.past(principal(), key.id, Position(2))
    assert (found.at, found.last.position) == (other.created_at, 1)


def test_an_events_time_is_not_in_the_future_even_if_the_local_clock_is_behind(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.commands.create(principal(), new_key(name="a"), REQUEST).key
    monkeypatch.setattr("shared.clock.time.time_ns", lambda: 0)
    assert keys.past(principal(), key.id, Time(key.created_at)).at == key.created_at
    with pytest.raises(PointInTimeError):
        keys.past(principal(), key.id, Time(key.created_at + 1))


def test_past_states_follow_the_same_access_rules_as_the_current_state(keys: Keys) -> None:
    key = keys.commands.create(principal(), new_key(name="a"), REQUEST).key
    keys.commands.change(principal(), key.id, ChangeKey(enabled=False), REQUEST)
    for stranger_asks in (Position(1), Time(0), Position(99)):
        with pytest.raises(NoSuchKeyError):
            keys.past(principal("other"), key.id, stranger_asks)
    with pytest.raises(ForbiddenError):
        keys.past(principal("default", "orders:read"), key.id, Position(1))
