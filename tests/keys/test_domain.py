from functools import reduce

import pytest
from msgspec.structs import replace

from services.keys.domain import CreateKey, Key, ToggleKey, decide, evolve
from shared.events import Actor, Event, Fact, KeyCreated, KeyToggled, Request, UnreadableEventError

CREATED = KeyCreated(
    name="Web", description="", prefix="kl", hint="kl_1234…abcd", digest="d", scopes=("a",), expires_at=None
)
OFF = KeyToggled(enabled=False, reason="leaked")
ON = KeyToggled(enabled=True, reason="")


def given(*facts: Fact, first_version: int = 1) -> list[Event]:
    return [
        Event(
            id=f"e{version}",
            type=fact.TYPE,
            schema=fact.SCHEMA,
            subject="key:00abcdefghij",
            version=version,
            workspace="default",
            actor=Actor(kind="operator", id="o", label="op"),
            request=Request(id="r", ip=None, user_agent=None),
            data=fact,
            position=version * 10,
            at=version * 1000,
        )
        for version, fact in enumerate(facts, first_version)
    ]


def key_after(*facts: Fact) -> Key | None:
    key: Key | None = None
    for event in given(*facts):
        key = evolve(key, event)
    return key


def test_creating_a_key_is_a_fact_with_all_that_was_asked() -> None:
    command = CreateKey(
        name="Web",
        description="",
        prefix="kl",
        hint="kl_1234…abcd",
        digest="d",
        scopes=("a",),
        expires_at=None,
    )
    assert decide(command, None) == (CREATED,)


def test_a_new_key_is_active_and_dated_by_its_event() -> None:
    key = key_after(CREATED)
    assert key is not None
    assert (key.id, key.status(now=0), key.created_at, key.created_by) == (
        "00abcdefghij",
        "active",
        1000,
        "op",
    )


def test_switching_off_is_a_fact_with_its_reason() -> None:
    assert decide(ToggleKey(enabled=False, reason="leaked"), key_after(CREATED)) == (OFF,)


@pytest.mark.parametrize(("facts", "enabled"), [((CREATED,), True), ((CREATED, OFF), False)])
def test_switching_to_what_is_so_already_is_no_fact(facts: tuple[Fact, ...], enabled: bool) -> None:
    assert decide(ToggleKey(enabled=enabled), key_after(*facts)) == ()


def test_a_key_switched_off_and_on_is_active_again_and_remembers_when() -> None:
    key = key_after(CREATED, OFF, ON)
    assert key is not None
    assert (key.status(now=0), key.created_at, key.updated_at, key.version) == ("active", 1000, 3000, 3)


def test_a_key_expires_without_an_event() -> None:
    key = evolve(None, given(replace(CREATED, expires_at=5000))[0])
    assert (key.status(now=4999), key.status(now=5000)) == ("active", "expired")


@pytest.mark.parametrize(
    "events",
    [
        given(ON),
        given(CREATED, CREATED),
        [given(CREATED)[0], *given(OFF, first_version=3)],
        [given(CREATED)[0], *given(OFF, first_version=1)],
    ],
    ids=["switched before created", "created twice", "a version left out", "a version twice"],
)
def test_a_history_that_does_not_follow_is_never_guessed_at(events: list[Event]) -> None:
    with pytest.raises(UnreadableEventError):
        reduce(evolve, events, None)
