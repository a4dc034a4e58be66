from collections.abc import Callable, Sequence
from dataclasses import replace as replace_fields
from typing import Any

import msgspec
import pytest
from fakeredis import FakeRedis
from msgspec.structs import replace

from services.keys.commands import KeyCommands, NoSuchKeyError, StaleVersionError
from services.keys.model.key import ChangeKey, Key, RefusedError
from services.keys.queries import Keys
from services.keys.read_model.generations import Views
from shared.eventstore.envelope import NewEvent, UnreadableEventError
from shared.eventstore.events import KeyToggled
from shared.eventstore.ledger import Appended, Ledger, VersionConflictError
from shared.identity import (
    ADMIN,
    KEYS_READ,
    KEYS_WRITE,
    PLATFORM_VERIFY,
    ForbiddenError,
    NotGrantableError,
    RotatedSecretError,
)
from shared.store.idempotency import Idempotency, IdempotencyConflictError
from tests.support.principals import REQUEST, new_key, principal

OFF, ON = ChangeKey(enabled=False), ChangeKey(enabled=True)
END = 4_102_444_800_000
SOONER, LATER = END - 1, END + 1
OPERATOR = principal("default", ADMIN, PLATFORM_VERIFY)
BACK_ON = KeyToggled(enabled=True, reason="")


def keys_of(commands: KeyCommands) -> Keys:
    """The queries that read the keys of these commands."""
    return Keys(commands, Views(FakeRedis()))


def test_creating_a_key_records_everything_but_the_token(commands: KeyCommands, ledger: Ledger) -> None:
    done = commands.create(principal(), new_key(name="Web", description="d", scopes=("a",)), REQUEST)
    (event,) = ledger.history(f"key:{done.key.id}")
    assert done.api_key is not None
    assert (event.type, event.version, event.workspace) == ("KeyCreated", 1, "default")
    assert (event.actor.label, event.request.id) == ("a@b", "r1")
    assert (event.data.name, event.data.hint, event.data.digest) == (
        "Web",
        done.api_key.hint,
        done.api_key.digest,
    )
    assert done.api_key.reveal().encode() not in ledger.read(0, 1)[0].body


def test_a_repeated_create_returns_the_key_as_first_created_without_the_token(
    commands: KeyCommands, ledger: Ledger
) -> None:
    asked = Idempotency("n", "f")
    first = commands.create(principal(), new_key(name="Web"), REQUEST, asked)
    commands.change(principal(), first.key.id, OFF, REQUEST)
    again = commands.create(principal(), new_key(name="Web"), REQUEST, asked)
    assert (again.key, again.position, again.api_key) == (first.key, first.position, None)
    assert ledger.head().position == 2


def test_a_repeated_request_does_not_reveal_a_key_of_another_workspace(commands: KeyCommands) -> None:
    asked = Idempotency("n", "f")
    commands.create(principal("ours"), new_key(name="Web"), REQUEST, asked)
    with pytest.raises(NoSuchKeyError):
        commands.create(principal("theirs"), new_key(name="Web"), REQUEST, asked)


def test_concurrent_creates_with_the_same_idempotency_key_create_one_key(
    commands: KeyCommands, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Idempotency("n", "f")
    monkeypatch.setattr(ledger, "recall", lambda _: None)  # both look before either has written
    first = commands.create(principal(), new_key(name="Web"), REQUEST, asked)
    second = commands.create(principal(), new_key(name="Web"), REQUEST, asked)
    assert (second.key.id, second.api_key) == (first.key.id, None)
    assert ledger.head().position == 1


def test_an_idempotency_key_cannot_be_reused_for_a_different_request(commands: KeyCommands) -> None:
    commands.create(principal(), new_key(name="Web"), REQUEST, Idempotency("n", "f"))
    with pytest.raises(IdempotencyConflictError):
        commands.create(principal(), new_key(name="Other"), REQUEST, Idempotency("n", "g"))


def test_a_status_change_returns_the_updated_key(commands: KeyCommands) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    assert commands.change(principal(), key.id, OFF, REQUEST).key.enabled is False
    assert commands.change(principal(), key.id, ON, REQUEST).key.version == 3


def test_setting_the_current_status_writes_nothing(commands: KeyCommands, ledger: Ledger) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    done = commands.change(principal(), key.id, ON, REQUEST)
    assert (done.key, done.position, ledger.head().position) == (key, 1, 1)


def test_a_status_change_is_decided_again_after_a_concurrent_change(
    commands: KeyCommands, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    decided: list[int] = []
    append = ledger.append

    def after_somebody_else(subject: str, events: Sequence[NewEvent], version: int, *_: object) -> Appended:
        decided.append(version)
        if len(decided) == 1:
            append(subject, events, version)
            append(subject, [replace(events[0], version=version + 2, data=BACK_ON)], version + 1)
        return append(subject, events, version)

    monkeypatch.setattr(ledger, "append", after_somebody_else)
    done = commands.change(principal(), key.id, OFF, REQUEST)
    assert (done.key.enabled, done.key.version, decided) == (False, 4, [1, 3])


def test_a_status_change_is_a_conflict_after_five_failed_attempts(
    commands: KeyCommands, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    tries: list[str] = []

    def refuse(subject: str, *_: object) -> None:
        tries.append(subject)
        raise VersionConflictError(subject, 1, 2)

    monkeypatch.setattr(ledger, "append", refuse)
    with pytest.raises(VersionConflictError):
        commands.change(principal(), key.id, OFF, REQUEST)
    assert len(tries) == 5


def test_a_status_change_for_a_stale_version_is_rejected(commands: KeyCommands) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    commands.change(principal(), key.id, OFF, REQUEST, if_versions={1})
    with pytest.raises(StaleVersionError):
        commands.change(principal(), key.id, ON, REQUEST, if_versions={1})


def test_a_key_of_another_workspace_is_not_found(commands: KeyCommands) -> None:
    key = commands.create(principal("ours"), new_key(name="Web"), REQUEST).key
    stranger = principal("theirs")
    with pytest.raises(NoSuchKeyError):
        commands.change(stranger, key.id, OFF, REQUEST)
    with pytest.raises(NoSuchKeyError):
        keys_of(commands).present(stranger, key.id)


@pytest.mark.parametrize("key_id", ["", "000000000000", "0" * 13, "key:a", "../log"])
def test_an_unknown_or_malformed_key_id_is_not_found(commands: KeyCommands, key_id: str) -> None:
    with pytest.raises(NoSuchKeyError):
        keys_of(commands).history(principal(), key_id, 0, 20)
    with pytest.raises(NoSuchKeyError):
        commands.revoke(principal(), key_id, None, REQUEST)


def test_each_command_requires_its_scope(commands: KeyCommands, ledger: Ledger) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    reader, writer = principal("default", KEYS_READ), principal("default", KEYS_WRITE)
    with pytest.raises(ForbiddenError, match=KEYS_WRITE):
        commands.create(reader, new_key(name="n"), REQUEST)
    with pytest.raises(ForbiddenError, match=KEYS_WRITE):
        commands.change(reader, key.id, OFF, REQUEST)
    with pytest.raises(ForbiddenError, match=KEYS_READ):
        keys_of(commands).history(writer, key.id, 0, 20)
    with pytest.raises(ForbiddenError, match="orders:write"):
        commands.create(writer, new_key(name="n", scopes=("orders:write",)), REQUEST)
    assert ledger.head().position == 1


def test_a_change_of_details_is_recorded_and_returns_the_updated_key(
    commands: KeyCommands, ledger: Ledger
) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    done = commands.change(principal(), key.id, ChangeKey(enabled=False, details={"name": "Site"}), REQUEST)
    assert (done.key.name, done.key.status(0), done.key.version, done.position) == ("Site", "inactive", 3, 3)
    assert [event.type for event in ledger.history(f"key:{key.id}")] == [
        "KeyCreated",
        "KeyDetailsChanged",
        "KeyToggled",
    ]


STRONGER = [
    ChangeKey(enabled=True),
    ChangeKey(details={"expires_at": LATER}),
    ChangeKey(details={"expires_at": None}),
    ChangeKey(details={"scopes": ("orders:write", "orders:read")}),
    ChangeKey(enabled=True, details={"scopes": ("orders:write",)}),
    ChangeKey(enabled=True, details={"expires_at": SOONER, "name": "Renamed"}),
    ChangeKey(details={"expires_at": LATER, "name": "Renamed"}),
]
WEAKER = [
    ChangeKey(details={"name": "Renamed", "description": "d"}),
    ChangeKey(details={"expires_at": SOONER}),
    ChangeKey(details={"scopes": ()}),
    ChangeKey(details={"scopes": ("orders:write",), "expires_at": SOONER}),
    ChangeKey(enabled=False),
    ChangeKey(
        enabled=True, details={"scopes": ("orders:read",)}
    ),  # it then holds nothing that the caller doesn't
]


@pytest.fixture
def stronger(commands: KeyCommands) -> Key:
    """A disabled key that holds more than a developer of one platform scope."""
    new = new_key(name="Web", scopes=("orders:write", ADMIN), expires_at=END)
    key = commands.create(principal(), new, REQUEST).key
    return commands.change(principal(), key.id, OFF, REQUEST).key


@pytest.mark.parametrize("change", STRONGER)
def test_making_a_key_stronger_requires_every_scope_it_will_hold(
    commands: KeyCommands, ledger: Ledger, stronger: Key, change: ChangeKey
) -> None:
    writer = principal("default", KEYS_WRITE, "orders:read")
    with pytest.raises(NotGrantableError, match="orders:write"):
        commands.change(writer, stronger.id, change, REQUEST)
    assert ledger.head().position == stronger.version
    allowed = principal("default", KEYS_WRITE, "orders:read", "orders:write", ADMIN)
    assert commands.change(allowed, stronger.id, change, REQUEST).position > stronger.version


@pytest.mark.parametrize("change", WEAKER)
def test_making_a_key_weaker_requires_only_the_scope_to_write_keys(
    commands: KeyCommands, stronger: Key, change: ChangeKey
) -> None:
    writer = principal("default", KEYS_WRITE, "orders:read")
    assert commands.change(writer, stronger.id, change, REQUEST).key.id == stronger.id
    assert commands.revoke(writer, stronger.id, "leaked", REQUEST).key.revoked


def test_enabling_an_enabled_key_changes_nothing_and_requires_no_extra_scopes(commands: KeyCommands) -> None:
    key = commands.create(principal(), new_key(name="Web", scopes=(ADMIN,)), REQUEST).key
    assert commands.change(principal("default", KEYS_WRITE), key.id, ON, REQUEST).key == key


def test_a_key_cannot_extend_its_own_expiry_without_the_scopes_to_grant_it(commands: KeyCommands) -> None:
    new = new_key(name="Web", scopes=(KEYS_WRITE, PLATFORM_VERIFY), expires_at=END)
    key = commands.create(OPERATOR, new, REQUEST).key
    itself = replace_fields(principal("default", *key.scopes[:1]), kind="key", id=key.id)
    with pytest.raises(NotGrantableError, match=PLATFORM_VERIFY):
        commands.change(itself, key.id, ChangeKey(details={"expires_at": None}), REQUEST)


def test_grantable_scopes_are_checked_against_the_version_being_appended_to(
    commands: KeyCommands, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the append, an owner gives the disabled key a scope that the caller lacks."""
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    commands.change(principal(), key.id, OFF, REQUEST)
    append = ledger.append

    def after_an_owner(*call: Any) -> Appended:
        monkeypatch.setattr(ledger, "append", append)
        commands.change(principal(), key.id, ChangeKey(details={"scopes": (ADMIN,)}), REQUEST)
        return append(*call)

    monkeypatch.setattr(ledger, "append", after_an_owner)
    with pytest.raises(NotGrantableError):
        commands.change(principal("default", KEYS_WRITE), key.id, ON, REQUEST)
    assert not commands.change(principal(), key.id, OFF, REQUEST).key.enabled


def test_a_secret_in_its_grace_period_can_read_but_not_write(commands: KeyCommands, ledger: Ledger) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    old = replace_fields(principal(), kind="key", id=key.id, rotated_secret=True)
    asked = Idempotency("n", "f")
    commands.rotate(principal(), key.id, 60, REQUEST, asked)
    writes: list[Callable[[], object]] = [
        lambda: commands.create(old, new_key(name="Mine"), REQUEST),
        lambda: commands.change(old, key.id, ChangeKey(details={"name": "Mine"}), REQUEST),
        lambda: commands.change(old, key.id, ON, REQUEST),
        lambda: commands.rotate(old, key.id, 0, REQUEST),
        lambda: commands.rotate(old, key.id, 60, REQUEST, asked),
        lambda: commands.revoke(old, key.id, None, REQUEST),
    ]
    for write in writes:
        with pytest.raises(RotatedSecretError, match="current secret"):
            write()
    assert len(keys_of(commands).history(old, key.id, 0, 20).events) == ledger.head().position == 2


def test_rotating_a_key_gives_it_a_new_token_under_the_same_id(commands: KeyCommands) -> None:
    made = commands.create(principal(), new_key(name="Web"), REQUEST)
    done = commands.rotate(principal(), made.key.id, 60, REQUEST)
    assert made.api_key is not None
    assert done.api_key is not None
    assert (done.key.id, done.api_key.id) == (made.key.id, made.key.id)
    assert done.api_key.matches(done.key.digest)
    assert made.api_key.matches(done.key.previous_digest or "")
    assert not made.api_key.matches(done.key.digest)


def test_rotating_a_key_requires_every_scope_it_holds(commands: KeyCommands) -> None:
    key = commands.create(principal(), new_key(name="Web", scopes=("orders:write",)), REQUEST).key
    with pytest.raises(ForbiddenError, match="orders:write"):
        commands.rotate(principal("default", KEYS_WRITE), key.id, 0, REQUEST)


def test_a_repeated_rotation_returns_the_first_result_even_after_a_revocation(
    commands: KeyCommands, ledger: Ledger
) -> None:
    asked = Idempotency("n", "f")
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    first = commands.rotate(principal(), key.id, 60, REQUEST, asked)
    commands.revoke(principal(), key.id, None, REQUEST)
    again = commands.rotate(principal(), key.id, 60, REQUEST, asked)
    assert (again.key, again.position, again.api_key) == (first.key, first.position, None)
    assert ledger.head().position == 3


def test_concurrent_rotations_with_the_same_idempotency_key_rotate_once(
    commands: KeyCommands, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Idempotency("n", "f")
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    monkeypatch.setattr(ledger, "recall", lambda _: None)  # both look before either has written
    first = commands.rotate(principal(), key.id, 60, REQUEST, asked)
    second = commands.rotate(principal(), key.id, 60, REQUEST, asked)
    assert (second.key, second.api_key) == (first.key, None)
    assert ledger.head().position == 2


def test_a_revocation_is_permanent(commands: KeyCommands, ledger: Ledger) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    revoked = commands.revoke(principal(), key.id, "leaked", REQUEST)
    assert (revoked.key.status(0), revoked.position) == ("revoked", 2)
    assert commands.revoke(principal(), key.id, "again", REQUEST) == revoked
    with pytest.raises(RefusedError):
        commands.change(principal(), key.id, ON, REQUEST)
    assert ledger.head().position == 2


def test_each_command_on_a_key_can_require_a_version(commands: KeyCommands) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    with pytest.raises(StaleVersionError):
        commands.rotate(principal(), key.id, 0, REQUEST, if_versions={7})
    with pytest.raises(StaleVersionError):
        commands.revoke(principal(), key.id, None, REQUEST, if_versions={7})


@pytest.mark.parametrize("unread", ["KeyCreated", "KeyToggled"])
def test_a_key_with_an_unreadable_history_can_only_be_revoked(
    commands: KeyCommands, ledger: Ledger, unread: str
) -> None:
    key = commands.create(principal(), new_key(name="Web"), REQUEST).key
    subject = f"key:{key.id}"
    if unread == "KeyToggled":
        commands.change(principal(), key.id, OFF, REQUEST)
    last = ledger.read(ledger.head().position - 1, 1)[0]
    newer = msgspec.json.decode(last.body) | {"schema": 99, "version": last.position + 1}
    ledger.append(subject, [msgspec.convert(newer, NewEvent)], last.position)
    with pytest.raises(UnreadableEventError):
        commands.change(principal(), key.id, ON, REQUEST)
    with pytest.raises(UnreadableEventError):
        commands.rotate(principal(), key.id, 0, REQUEST)
    with pytest.raises(NoSuchKeyError):
        commands.revoke(principal("theirs"), key.id, None, REQUEST)
    with pytest.raises(StaleVersionError):
        commands.revoke(principal(), key.id, None, REQUEST, if_versions={99})
    done = commands.revoke(principal(), key.id, "leaked", REQUEST)
    assert (done.key.id, done.key.name, done.key.status(0)) == (key.id, "Web", "revoked")
    assert (done.key.version, done.position) == (last.position + 2, last.position + 2)
    assert commands.revoke(principal(), key.id, "again", REQUEST).position == done.position
