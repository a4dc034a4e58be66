from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from services.keys.commands import KeyCommands, NewKey, NoSuchKeyError, StaleVersionError
from services.keys.domain import ToggleKey
from shared.events import KeyToggled, NewEvent
from shared.identity import KEYS_READ, KEYS_WRITE, ForbiddenError
from shared.ledger import Appended, Idempotency, IdempotencyConflictError, Ledger, VersionConflictError
from tests.keys.people import REQUEST, person

OFF, ON = ToggleKey(enabled=False), ToggleKey(enabled=True)
BACK_ON = KeyToggled(enabled=True, reason="")


def test_a_created_key_is_an_event_that_tells_all_but_the_token(
    commands: KeyCommands, ledger: Ledger
) -> None:
    done = commands.create(person(), NewKey(name="Web", description="d", scopes=("a",)), REQUEST)
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


def test_the_same_request_again_gives_the_same_key_as_it_was_then(
    commands: KeyCommands, ledger: Ledger
) -> None:
    asked = Idempotency("n", "f")
    first = commands.create(person(), NewKey(name="Web"), REQUEST, asked)
    commands.toggle(person(), first.key.id, OFF, REQUEST)
    again = commands.create(person(), NewKey(name="Web"), REQUEST, asked)
    assert (again.key, again.position, again.api_key) == (first.key, first.position, None)
    assert ledger.head().position == 2


def test_of_two_equal_requests_at_once_one_makes_the_key(
    commands: KeyCommands, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Idempotency("n", "f")
    monkeypatch.setattr(ledger, "recall", lambda _: None)  # both look before either has written
    first = commands.create(person(), NewKey(name="Web"), REQUEST, asked)
    second = commands.create(person(), NewKey(name="Web"), REQUEST, asked)
    assert (second.key.id, second.api_key) == (first.key.id, None)
    assert ledger.head().position == 1


def test_an_idempotency_key_is_good_for_one_request(commands: KeyCommands) -> None:
    commands.create(person(), NewKey(name="Web"), REQUEST, Idempotency("n", "f"))
    with pytest.raises(IdempotencyConflictError):
        commands.create(person(), NewKey(name="Other"), REQUEST, Idempotency("n", "g"))


def test_switching_gives_the_key_as_it_is_then(commands: KeyCommands) -> None:
    key = commands.create(person(), NewKey(name="Web"), REQUEST).key
    assert commands.toggle(person(), key.id, OFF, REQUEST).key.enabled is False
    assert commands.toggle(person(), key.id, ON, REQUEST).key.version == 3


def test_switching_to_what_is_so_already_writes_nothing(commands: KeyCommands, ledger: Ledger) -> None:
    key = commands.create(person(), NewKey(name="Web"), REQUEST).key
    done = commands.toggle(person(), key.id, ON, REQUEST)
    assert (done.key, done.position, ledger.head().position) == (key, 1, 1)


def test_a_switch_that_somebody_else_came_before_is_decided_anew(
    commands: KeyCommands, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = commands.create(person(), NewKey(name="Web"), REQUEST).key
    decided: list[int] = []
    append = ledger.append

    def after_somebody_else(subject: str, events: Sequence[NewEvent], version: int, *_: object) -> Appended:
        decided.append(version)
        if len(decided) == 1:
            append(subject, events, version)
            append(subject, [replace(events[0], version=version + 2, data=BACK_ON)], version + 1)
        return append(subject, events, version)

    monkeypatch.setattr(ledger, "append", after_somebody_else)
    done = commands.toggle(person(), key.id, OFF, REQUEST)
    assert (done.key.enabled, done.key.version, decided) == (False, 4, [1, 3])


def test_a_switch_that_never_gets_through_is_a_conflict(
    commands: KeyCommands, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = commands.create(person(), NewKey(name="Web"), REQUEST).key
    tries: list[str] = []

    def refuse(subject: str, *_: object) -> None:
        tries.append(subject)
        raise VersionConflictError(subject, 1, 2)

    monkeypatch.setattr(ledger, "append", refuse)
    with pytest.raises(VersionConflictError):
        commands.toggle(person(), key.id, OFF, REQUEST)
    assert len(tries) == 5


def test_a_switch_of_one_version_is_not_decided_anew(commands: KeyCommands) -> None:
    key = commands.create(person(), NewKey(name="Web"), REQUEST).key
    commands.toggle(person(), key.id, OFF, REQUEST, if_version=1)
    with pytest.raises(StaleVersionError):
        commands.toggle(person(), key.id, ON, REQUEST, if_version=1)


def test_another_workspaces_key_is_unknown(commands: KeyCommands) -> None:
    key = commands.create(person("ours"), NewKey(name="Web"), REQUEST).key
    stranger = person("theirs")
    with pytest.raises(NoSuchKeyError):
        commands.toggle(stranger, key.id, OFF, REQUEST)
    with pytest.raises(NoSuchKeyError):
        commands.history(stranger, key.id)


@pytest.mark.parametrize("key_id", ["", "000000000000", "0" * 13, "key:a", "../log"])
def test_no_other_part_of_the_store_can_be_reached_by_an_id(commands: KeyCommands, key_id: str) -> None:
    with pytest.raises(NoSuchKeyError):
        commands.history(person(), key_id)


def test_each_command_needs_its_scope(commands: KeyCommands, ledger: Ledger) -> None:
    key = commands.create(person(), NewKey(name="Web"), REQUEST).key
    reader, writer = person("default", KEYS_READ), person("default", KEYS_WRITE)
    with pytest.raises(ForbiddenError, match=KEYS_WRITE):
        commands.create(reader, NewKey(name="n"), REQUEST)
    with pytest.raises(ForbiddenError, match=KEYS_WRITE):
        commands.toggle(reader, key.id, OFF, REQUEST)
    with pytest.raises(ForbiddenError, match=KEYS_READ):
        commands.history(writer, key.id)
    with pytest.raises(ForbiddenError, match="orders:write"):
        commands.create(writer, NewKey(name="n", scopes=("orders:write",)), REQUEST)
    assert ledger.head().position == 1
