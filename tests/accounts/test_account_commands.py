"""Commands on people, and telling who they are, on a ledger."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import fakeredis
import pytest
from argon2 import PasswordHasher
from limits import parse

from services.accounts.attempts import Attempts, TooManyAttemptsError
from services.accounts.commands import Accounts, NoSuchAccountError
from services.accounts.credentials import Passwords
from services.accounts.domain import AccountExistsError, OwnAccountError
from shared.errors import InvalidFieldError
from shared.events import (
    AccountAdded,
    AccountDisabled,
    AccountEnabled,
    AccountRoleChanged,
    Fact,
    KeyToggled,
    PasswordChanged,
    Request,
    SignedOutEverywhere,
    UnreadableEventError,
    enveloped,
)
from shared.identity import ADMIN, AUDIT_READ, KEYS_READ, KEYS_WRITE, ROLES, ForbiddenError, Principal
from shared.ledger import Idempotency, Ledger, credential_key

PASSWORD = "correct horse battery"
OPERATOR = Principal(
    kind="operator", id="operator", label="operator", workspace="default", scopes=frozenset({ADMIN})
)
REQUEST = Request(id="r1", ip="192.0.2.1", user_agent=None)


@pytest.fixture
def store() -> Any:
    return fakeredis.FakeRedis()


@pytest.fixture
def ledger(store: Any) -> Ledger:
    return Ledger(store)


@pytest.fixture
def accounts(ledger: Ledger, store: Any) -> Accounts:
    ids = map("e{}".format, count(1))
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    attempts = Attempts(store, parse("3/10 minutes"))
    return Accounts(ledger, Passwords(hasher), attempts, lambda: next(ids))


def person(email: str, role: str = "owner", workspace: str = "default") -> Principal:
    """Somebody who is signed in, and may what the role says."""
    return Principal(
        kind="account", id=f"account:{email}", label=email, workspace=workspace, scopes=ROLES[role]
    )


ADA, BOB = person("ada@example.com"), person("bob@example.com")


def is_password(accounts: Accounts, password: str, email: str = "ada@example.com") -> bool:
    """Whether it is the one that is kept."""
    return accounts.passwords.verify(accounts.ledger.credential(f"account:{email}"), password)


def facts(ledger: Ledger, email: str = "ada@example.com") -> list[Fact]:
    """What happened to an account after it was added."""
    return [event.data for event in ledger.history(f"account:{email}")][1:]


def add(
    accounts: Accounts, email: str = "ada@example.com", role: str = "owner", password: str = PASSWORD
) -> int:
    return accounts.add(OPERATOR, email, role, password, REQUEST).position


def test_adding_a_person_is_one_event_of_who_did_it(accounts: Accounts, ledger: Ledger) -> None:
    appended = accounts.add(OPERATOR, "Ada@Example.com", "developer", PASSWORD, REQUEST)
    (event,) = ledger.history("account:ada@example.com")
    assert appended.position == event.position == 1
    assert (event.id, event.version, event.workspace) == ("e1", 1, "default")
    assert (event.actor, event.request) == (OPERATOR.actor, REQUEST)
    assert event.data == AccountAdded(role="developer")


def test_an_added_person_can_be_loaded_by_the_address_in_any_spelling(accounts: Accounts) -> None:
    add(accounts)
    account = accounts.load(" ADA@example.com ")
    assert account is not None
    assert (account.email, account.workspace, account.role) == ("ada@example.com", "default", "owner")
    assert accounts.load("bob@example.com") is None


def test_an_address_has_one_account_however_it_is_typed(accounts: Accounts, ledger: Ledger) -> None:
    add(accounts, "zo\u00eb@example.com")
    with pytest.raises(AccountExistsError):
        add(accounts, " ZOE\u0308@EXAMPLE.COM", password="another password")
    assert ledger.head().position == 1
    assert is_password(accounts, "another password", "zo\u00eb@example.com") is False


def test_of_two_who_add_the_same_person_at_once_one_does(
    accounts: Accounts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(accounts)
    # The other one's event came after this one had looked.
    monkeypatch.setattr(Ledger, "history", lambda *_: [])
    with pytest.raises(AccountExistsError):
        add(accounts, password="another password")
    monkeypatch.undo()
    assert ledger.head().position == 1
    assert is_password(accounts, PASSWORD)


@pytest.mark.parametrize(
    ("email", "role", "password", "field"),
    [
        ("ada", "owner", PASSWORD, "email"),
        ("ada@example.com", "root", PASSWORD, "role"),
        ("ada@example.com", "owner", "too short", "password"),
    ],
)
def test_nothing_is_written_of_bad_input(
    accounts: Accounts, store: Any, email: str, role: str, password: str, field: str
) -> None:
    with pytest.raises(InvalidFieldError) as refusal:
        add(accounts, email, role, password)
    assert refusal.value.field == field
    assert store.keys() == []


@pytest.mark.parametrize("scopes", [set(), {KEYS_READ, KEYS_WRITE, AUDIT_READ}])
def test_only_who_holds_the_scope_adds_people(accounts: Accounts, store: Any, scopes: set[str]) -> None:
    with pytest.raises(ForbiddenError):
        accounts.add(replace(OPERATOR, scopes=frozenset(scopes)), "a@b", "auditor", PASSWORD, REQUEST)
    assert store.keys() == []


def test_who_somebody_is_has_the_scopes_of_the_role(accounts: Accounts) -> None:
    add(accounts, role="auditor")
    assert accounts.principal_of("account:ada@example.com", 1) == Principal(
        kind="account",
        id="account:ada@example.com",
        label="ada@example.com",
        workspace="default",
        scopes=frozenset({KEYS_READ, AUDIT_READ}),
    )


def test_an_unknown_subject_is_nobody(accounts: Accounts) -> None:
    assert accounts.principal_of("account:bob@example.com", 1) is None


def test_an_account_whose_history_is_not_understood_may_do_nothing(
    accounts: Accounts, ledger: Ledger
) -> None:
    add(accounts)
    name = "account:ada@example.com"
    later = enveloped(
        [KeyToggled(enabled=True, reason="")],
        subject=name,
        after_version=1,
        workspace="default",
        actor=OPERATOR.actor,
        request=REQUEST,
        new_id=lambda: "later",
    )
    ledger.append(name, later, 1)
    with pytest.raises(UnreadableEventError):
        accounts.principal_of(name, 2)


def test_another_role_is_had_at_the_next_look_and_ends_no_session(accounts: Accounts, ledger: Ledger) -> None:
    add(accounts)
    changed = accounts.change_role(BOB, " Ada@example.com", "auditor", REQUEST)
    assert (changed.role, changed.version) == ("auditor", 2)
    assert facts(ledger) == [AccountRoleChanged(before="owner", after="auditor")]
    principal = accounts.principal_of(ADA.id, 1)
    assert principal is not None
    assert principal.scopes == ROLES["auditor"]


def test_a_disabled_account_is_nobody_and_an_enabled_one_only_in_new_sessions(
    accounts: Accounts, ledger: Ledger
) -> None:
    add(accounts)
    accounts.disable(BOB, "ada@example.com", "left", REQUEST)
    assert accounts.principal_of(ADA.id, 1) is accounts.principal_of(ADA.id, 2) is None
    accounts.enable(BOB, "ada@example.com", REQUEST)
    assert accounts.principal_of(ADA.id, 1) is None
    assert accounts.principal_of(ADA.id, 3) == ADA
    assert facts(ledger) == [AccountDisabled(reason="left"), AccountEnabled()]


def test_what_is_so_already_is_no_event(accounts: Accounts, ledger: Ledger) -> None:
    add(accounts)
    assert accounts.enable(BOB, "ada@example.com", REQUEST).version == 1
    assert accounts.change_role(BOB, "ada@example.com", "owner", REQUEST).version == 1
    assert facts(ledger) == []


def test_signing_out_everywhere_ends_the_sessions_from_before(accounts: Accounts) -> None:
    add(accounts)
    assert accounts.principal_of(ADA.id, 1)
    ended = accounts.sign_out_everywhere(ADA, REQUEST)
    assert accounts.principal_of(ADA.id, 1) is None
    assert accounts.principal_of(ADA.id, ended.version)


def test_a_change_that_came_in_between_is_no_hindrance(
    accounts: Accounts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(accounts)
    append, tries = Ledger.append, iter([True, False, False])

    def outrun(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if next(tries):
            accounts.sign_out_everywhere(ADA, REQUEST)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", outrun)
    assert accounts.change_role(BOB, "ada@example.com", "auditor", REQUEST).version == 3
    assert [type(fact) for fact in facts(ledger)] == [SignedOutEverywhere, AccountRoleChanged]


OWNERS_COMMANDS: list[Callable[[Accounts, Principal, str], object]] = [
    lambda accounts, by, email: accounts.change_role(by, email, "auditor", REQUEST),
    lambda accounts, by, email: accounts.disable(by, email, "", REQUEST),
    lambda accounts, by, email: accounts.enable(by, email, REQUEST),
    lambda accounts, by, email: accounts.reset_password(by, email, PASSWORD, REQUEST),
    lambda accounts, by, email: accounts.find(by, email),
]


@pytest.mark.parametrize("command", OWNERS_COMMANDS)
def test_only_owners_command_others_and_learn_nothing_of_them_before(
    accounts: Accounts, ledger: Ledger, command: Callable[[Accounts, Principal, str], object]
) -> None:
    add(accounts)
    for role in ("developer", "auditor"):
        for email in ("ada@example.com", "nobody@example.com"):
            with pytest.raises(ForbiddenError) as refusal:
                command(accounts, person("eve@example.com", role), email)
            assert refusal.value.principal.id == "account:eve@example.com"
    assert facts(ledger) == []


@pytest.mark.parametrize("command", OWNERS_COMMANDS)
def test_an_account_of_another_workspace_answers_as_unknown(
    accounts: Accounts, ledger: Ledger, command: Callable[[Accounts, Principal, str], object]
) -> None:
    add(accounts)
    messages = []
    for email in ("ada@example.com", "eva@example.com"):
        with pytest.raises(NoSuchAccountError) as refusal:
            command(accounts, person("mallory@example.com", workspace="other"), email)
        messages.append(str(refusal.value).replace(email, "…"))
    assert messages[0] == messages[1]
    assert facts(ledger) == []
    assert is_password(accounts, PASSWORD)


@pytest.mark.parametrize("command", [OWNERS_COMMANDS[0], OWNERS_COMMANDS[1], OWNERS_COMMANDS[3]])
def test_an_owner_does_none_of_this_to_themselves(
    accounts: Accounts, ledger: Ledger, command: Callable[[Accounts, Principal, str], object]
) -> None:
    add(accounts)
    with pytest.raises(OwnAccountError):
        command(accounts, ADA, " ADA@example.com")
    assert facts(ledger) == []
    assert is_password(accounts, PASSWORD)


def test_a_password_that_is_reset_takes_the_place_of_the_old_one_and_ends_the_sessions(
    accounts: Accounts, ledger: Ledger
) -> None:
    add(accounts)
    assert accounts.reset_password(BOB, "ada@example.com", "a given password", REQUEST)
    assert [is_password(accounts, p) for p in (PASSWORD, "a given password")] == [False, True]
    assert accounts.principal_of(ADA.id, 1) is None
    assert facts(ledger) == [PasswordChanged()]
    assert accounts.own(ADA).password_is_given


def test_who_has_no_password_after_an_import_gets_one_by_a_reset(accounts: Accounts, store: Any) -> None:
    add(accounts)
    store.delete(credential_key("account:ada@example.com"))
    assert accounts.reset_password(BOB, "ada@example.com", "a given password", REQUEST)
    assert is_password(accounts, "a given password")


@pytest.mark.parametrize("at_once", [False, True])
def test_a_reset_sent_twice_is_one(
    accounts: Accounts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    add(accounts)
    asked = Idempotency.of("account:bob", "form-1", b"ada@example.com")
    assert accounts.reset_password(BOB, "ada@example.com", "a given password", REQUEST, asked)
    if at_once:
        monkeypatch.setattr(Ledger, "recall", lambda *_: None)
    assert not accounts.reset_password(BOB, "ada@example.com", "another password", REQUEST, asked)
    assert is_password(accounts, "a given password")
    assert facts(ledger) == [PasswordChanged()]


def test_ones_own_password_is_changed_with_the_present_one(accounts: Accounts, ledger: Ledger) -> None:
    add(accounts)
    changed = accounts.change_password(ADA, PASSWORD, "a password of my own", REQUEST)
    assert not changed.password_is_given
    assert is_password(accounts, "a password of my own")
    assert facts(ledger) == [PasswordChanged()]
    assert accounts.principal_of(ADA.id, 1) is None
    assert accounts.principal_of(ADA.id, changed.version) == ADA


@pytest.mark.parametrize(
    ("current", "new", "field"),
    [
        ("not the password", "a password of my own", "current_password"),
        (PASSWORD, "too short", "password"),
        (PASSWORD, PASSWORD, "password"),
    ],
)
def test_a_password_that_may_not_be_changed_stays(
    accounts: Accounts, ledger: Ledger, current: str, new: str, field: str
) -> None:
    add(accounts)
    with pytest.raises(InvalidFieldError) as refusal:
        accounts.change_password(ADA, current, new, REQUEST)
    assert refusal.value.field == field
    assert facts(ledger) == []
    assert is_password(accounts, PASSWORD)


def test_the_present_password_is_not_guessed_on_an_open_browser(accounts: Accounts) -> None:
    add(accounts)
    for _ in range(3):
        with pytest.raises(InvalidFieldError):
            accounts.change_password(ADA, "a wrong guess", "a password of my own", REQUEST)
    with pytest.raises(TooManyAttemptsError):
        accounts.change_password(ADA, PASSWORD, "a password of my own", REQUEST)
    assert is_password(accounts, PASSWORD)


def test_a_password_that_was_reset_meanwhile_is_not_changed_with_the_old_one(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(accounts)
    append, tries = Ledger.append, iter([True, False])

    def outrun(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if next(tries):
            accounts.reset_password(BOB, "ada@example.com", "a given password", REQUEST)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", outrun)
    with pytest.raises(InvalidFieldError):
        accounts.change_password(ADA, PASSWORD, "the thief's password", REQUEST)
    assert is_password(accounts, "a given password")


def test_neither_password_nor_hash_is_anywhere_but_in_the_credential(accounts: Accounts, store: Any) -> None:
    add(accounts)
    with pytest.raises(InvalidFieldError):
        accounts.change_password(ADA, "canary of a wrong one", "canary of a new one", REQUEST)
    accounts.change_password(ADA, PASSWORD, "canary of my own", REQUEST)
    kept = store.get(credential_key("account:ada@example.com"))
    assert kept.startswith(b"$argon2id$")
    contents = dict(everything(store))
    assert [key for key, values in contents.items() if b"argon2" in values] == [
        b"{kl:0}:credential:account:ada@example.com"
    ]
    for secret in (PASSWORD.encode(), b"canary"):
        assert not any(secret in key + values for key, values in contents.items())


def everything(store: Any) -> Iterator[tuple[bytes, bytes]]:
    """Each key of the store with its value, whatever its kind."""
    read = {
        b"string": store.get,
        b"list": lambda key: store.lrange(key, 0, -1),
        b"hash": store.hgetall,
        b"stream": store.xrange,
    }
    for key in store.scan_iter():
        yield key, repr(read[store.type(key)](key)).encode()
