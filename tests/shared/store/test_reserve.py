"""Memory reserved for removing access, in a store that accepts nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from shared.eventstore.envelope import Actor, NewEvent, Request, enveloped
from shared.eventstore.events import (
    AccountDisabled,
    AccountEnabled,
    AccountRoleChanged,
    KeyRevoked,
    KeyToggled,
    PasswordChanged,
    SignedIn,
    SignedOutEverywhere,
)
from shared.eventstore.ledger import Ledger
from shared.eventstore.payload import Payload
from shared.store.connections import connect
from shared.store.reserve import Reserve, reserve

MIB = 1024 * 1024
TAKING_AWAY = [
    KeyRevoked(reason="leaked"),
    KeyToggled(enabled=False, reason=""),
    AccountDisabled(reason=""),
    SignedOutEverywhere(),
    AccountRoleChanged(before="owner", after="developer"),
    AccountRoleChanged(before="developer", after="auditor"),
    SignedIn(),
]
ORDINARY = [
    KeyToggled(enabled=True, reason=""),
    AccountEnabled(),
    PasswordChanged(),
    AccountRoleChanged(before="auditor", after="developer"),
    AccountRoleChanged(before="developer", after="owner"),
]


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Redis]:
    with connect(request.getfixturevalue(f"{request.param}_url")) as client:
        client.flushall()
        yield client


@contextmanager
def limited(store: Redis, room: int) -> Iterator[None]:
    """Limits the store to this many bytes of free memory, which may be negative."""
    store.config_set("maxmemory", store.info("memory")["used_memory"] + room)
    try:
        yield
    finally:
        store.config_set("maxmemory", 0)


def event(payload: Payload, version: int) -> list[NewEvent]:
    who = Actor(kind="account", id="account:ada", label="ada")
    request = Request(id="r", ip=None, user_agent=None)
    return enveloped(
        [payload],
        subject="key:a",
        after_version=version,
        workspace="default",
        actor=who,
        request=request,
        new_id=lambda: f"e{version}",
    )


def appends(ledger: Ledger, payload: Payload) -> bool:
    version = ledger.version("key:a")
    try:
        ledger.append("key:a", event(payload, version), version)
    except OutOfMemoryError:
        assert ledger.version("key:a") == version
        return False
    return True


@pytest.mark.parametrize("room", [200_000, -1_000])
def test_a_full_store_accepts_only_sign_ins_and_events_that_remove_access(server: Redis, room: int) -> None:
    ledger = Ledger(server, reserve=Reserve(server))
    with limited(server, room):
        assert [payload for payload in TAKING_AWAY if not appends(ledger, payload)] == []
        assert [payload for payload in ORDINARY if appends(ledger, payload)] == []
    assert len(ledger.history("key:a")) == len(TAKING_AWAY)


def test_an_append_that_also_grants_access_cannot_use_the_reserve(server: Redis) -> None:
    ledger = Ledger(server)
    events = event(KeyRevoked(reason=""), 0) + event(KeyToggled(enabled=True, reason=""), 1)
    with limited(server, -200_000), pytest.raises(OutOfMemoryError):
        ledger.append("key:a", events, 0)


def test_ordinary_appends_resume_as_soon_as_there_is_room(server: Redis) -> None:
    now = 0.0
    ledger = Ledger(server, reserve=Reserve(server, clock=lambda: now))
    with limited(server, 200_000):
        assert not appends(ledger, PasswordChanged())
    now += 1
    assert appends(ledger, PasswordChanged())


def test_the_reserve_grows_with_the_store_within_bounds() -> None:
    sizes = {1 * MIB: 256 * 1024, 64 * MIB: 4 * MIB, 1024 * MIB: 8 * MIB}
    assert {limit: reserve(limit) for limit in sizes} == sizes
