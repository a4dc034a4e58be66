from functools import reduce
from typing import Any

import pytest
from msgspec.structs import replace

from services.keys.model.key import (
    ChangeKey,
    CreateKey,
    Key,
    RefusedError,
    RevokeKey,
    RotateKey,
    decide,
    evolve,
)
from shared.eventstore.envelope import Actor, Event, Request, UnreadableEventError
from shared.eventstore.events import (
    KeyCreated,
    KeyDetails,
    KeyDetailsChanged,
    KeyRevoked,
    KeyRotated,
    KeyToggled,
)
from shared.eventstore.payload import Payload

CREATED = KeyCreated(
    name="Web", description="", prefix="kl", hint="kl_1234…abcd", digest="d", scopes=("a",), expires_at=None
)
OFF = KeyToggled(enabled=False, reason="leaked")
ON = KeyToggled(enabled=True, reason="")


def given(*payloads: Payload, first_version: int = 1) -> list[Event]:
    return [
        Event(
            id=f"e{version}",
            type=payload.TYPE,
            schema=payload.SCHEMA,
            subject="key:00abcdefghij",
            version=version,
            workspace="default",
            actor=Actor(kind="operator", id="o", label="op"),
            request=Request(id="r", ip=None, user_agent=None),
            data=payload,
            position=version * 10,
            at=version * 1000,
        )
        for version, payload in enumerate(payloads, first_version)
    ]


def key_after(*payloads: Payload) -> Key | None:
    key: Key | None = None
    for event in given(*payloads):
        key = evolve(key, event)
    return key


def test_creating_a_key_records_an_event_with_every_requested_field() -> None:
    command = CreateKey(
        details=KeyDetails(name="Web", description="", scopes=("a",), expires_at=None),
        prefix="kl",
        hint="kl_1234…abcd",
        digest="d",
    )
    assert decide(command, None) == (CREATED,)


def test_a_new_key_is_active_with_the_time_and_actor_of_its_event() -> None:
    key = key_after(CREATED)
    assert key is not None
    assert (key.id, key.status(now=0), key.created_at, key.created_by) == (
        "00abcdefghij",
        "active",
        1000,
        "op",
    )


def test_disabling_a_key_records_an_event_with_the_reason() -> None:
    assert decide(ChangeKey(enabled=False, reason="leaked"), key_after(CREATED)) == (OFF,)


@pytest.mark.parametrize(("payloads", "enabled"), [((CREATED,), True), ((CREATED, OFF), False)])
def test_setting_the_current_status_records_no_event(payloads: tuple[Payload, ...], enabled: bool) -> None:
    assert decide(ChangeKey(enabled=enabled), key_after(*payloads)) == ()


def test_a_key_that_is_enabled_again_is_active_and_keeps_its_creation_time() -> None:
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
def test_a_history_with_missing_repeated_or_misplaced_events_is_unreadable(events: list[Event]) -> None:
    with pytest.raises(UnreadableEventError):
        reduce(evolve, events, None)


DETAILS = KeyDetails(name="Web", description="", scopes=("a",), expires_at=None)
RENAMED = KeyDetailsChanged(before=DETAILS, after=replace(DETAILS, name="Site"), reason="typo")
ROTATED = KeyRotated(prefix="kl", hint="kl_1234…wxyz", digest="d2", previous_expires_at=9000)
REVOKED = KeyRevoked(reason="leaked")


def rotate(**changes: Any) -> RotateKey:
    asked = RotateKey(prefix="kl", hint="kl_1234…wxyz", digest="d2", now=5000, grace_ends_at=9000)
    return replace(asked, **changes)


def test_a_change_records_the_details_before_and_after_it() -> None:
    assert decide(ChangeKey(details={"name": "Site"}, reason="typo"), key_after(CREATED)) == (RENAMED,)


def test_changing_details_and_status_together_records_two_events() -> None:
    payloads = decide(ChangeKey(details={"name": "Site"}, enabled=False, reason="typo"), key_after(CREATED))
    assert payloads == (RENAMED, KeyToggled(enabled=False, reason="typo"))


@pytest.mark.parametrize(
    "same",
    [
        ChangeKey(),
        ChangeKey(details={"name": "Web", "scopes": ("a",), "expires_at": None}),
        ChangeKey(reason="only a reason"),
    ],
)
def test_setting_the_current_details_records_no_event(same: ChangeKey) -> None:
    assert decide(same, key_after(CREATED)) == ()


def test_an_expiry_can_be_set_and_removed() -> None:
    expiring = replace(RENAMED, after=replace(DETAILS, expires_at=4000))
    key = key_after(CREATED, expiring)
    assert key is not None
    assert (key.status(now=3999), key.status(now=4000)) == ("active", "expired")
    (payload,) = decide(ChangeKey(details={"expires_at": None}), key)
    assert key_after(CREATED, expiring, payload) == replace(key, expires_at=None, updated_at=3000, version=3)


def test_a_rotated_key_keeps_its_id_and_its_previous_digest() -> None:
    assert decide(rotate(), key_after(CREATED)) == (ROTATED,)
    key = key_after(CREATED, ROTATED)
    assert key is not None
    assert (key.id, key.digest, key.hint) == ("00abcdefghij", "d2", "kl_1234…wxyz")
    assert (key.previous_digest, key.previous_expires_at) == ("d", 9000)


def test_a_second_rotation_ends_the_grace_period_of_the_first() -> None:
    key = key_after(CREATED, ROTATED, replace(ROTATED, digest="d3", previous_expires_at=9500))
    assert key is not None
    assert (key.digest, key.previous_digest, key.previous_expires_at) == ("d3", "d2", 9500)


def test_a_rotation_never_extends_the_life_of_the_old_secret() -> None:
    expiring = replace(CREATED, expires_at=7000)
    (payload,) = decide(rotate(), key_after(expiring))
    assert payload == replace(ROTATED, previous_expires_at=7000)
    later = KeyDetailsChanged(
        before=replace(DETAILS, expires_at=7000), after=replace(DETAILS, expires_at=99_000), reason=""
    )
    key = key_after(expiring, payload, later)
    assert key is not None
    assert (key.expires_at, key.previous_expires_at) == (99_000, 7000)


def test_an_expired_key_cannot_be_rotated() -> None:
    with pytest.raises(RefusedError, match="expires_at"):
        decide(rotate(now=7000), key_after(replace(CREATED, expires_at=7000)))


@pytest.mark.parametrize("payloads", [(CREATED,), (CREATED, OFF), (CREATED, ROTATED)])
def test_a_key_is_revoked_once_and_permanently(payloads: tuple[Payload, ...]) -> None:
    assert decide(RevokeKey(reason="leaked"), key_after(*payloads)) == (REVOKED,)
    key = key_after(*payloads, REVOKED)
    assert key is not None
    assert key.status(now=10**15) == "revoked"
    assert decide(RevokeKey(reason="again"), key) == ()
    for command in (ChangeKey(enabled=True), ChangeKey(details={"name": "n"}), rotate()):
        with pytest.raises(RefusedError, match="permanently"):
            decide(command, key)


def test_revoked_takes_precedence_over_inactive_and_inactive_over_expired() -> None:
    key = key_after(replace(CREATED, expires_at=1), OFF)
    assert key is not None
    assert key.status(now=2) == "inactive"
    assert replace(key, enabled=True).status(now=2) == "expired"
    assert replace(key, revoked=True).status(now=2) == "revoked"


@pytest.mark.parametrize("late", [ON, RENAMED, ROTATED, REVOKED])
def test_an_event_after_a_revocation_makes_the_history_unreadable(late: Payload) -> None:
    with pytest.raises(UnreadableEventError, match="does not follow"):
        key_after(CREATED, REVOKED, late)
