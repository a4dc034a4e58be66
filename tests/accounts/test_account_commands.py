"""Adding people and telling who they are, on a ledger."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import fakeredis
import pytest
from argon2 import PasswordHasher

from services.accounts.commands import Accounts
from services.accounts.credentials import Passwords
from services.accounts.domain import AccountExistsError, InvalidFieldError
from shared.events import AccountAdded, KeyToggled, Request, UnreadableEventError, enveloped
from shared.identity import ADMIN, AUDIT_READ, KEYS_READ, KEYS_WRITE, ForbiddenError, Principal
from shared.ledger import Ledger, credential_key

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
def accounts(ledger: Ledger) -> Accounts:
    ids = map("e{}".format, count(1))
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return Accounts(ledger, Passwords(hasher), lambda: next(ids))


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
    assert accounts.sign_in("zo\u00eb@example.com", "another password") is None


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
    assert accounts.sign_in("ada@example.com", PASSWORD)


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


def test_the_right_password_signs_in_with_the_scopes_of_the_role(accounts: Accounts) -> None:
    add(accounts, role="auditor")
    assert accounts.sign_in(" Ada@example.com", PASSWORD) == Principal(
        kind="account",
        id="account:ada@example.com",
        label="ada@example.com",
        workspace="default",
        scopes=frozenset({KEYS_READ, AUDIT_READ}),
    )


@pytest.mark.parametrize("email", ["ada@example.com", "bob@example.com", "", "no address", "a\nb"])
def test_a_wrong_password_and_an_unknown_account_sign_nobody_in(accounts: Accounts, email: str) -> None:
    add(accounts)
    assert accounts.sign_in(email, "wrong password") is None


def test_a_password_without_an_account_signs_nobody_in(accounts: Accounts, store: Any) -> None:
    store.set(credential_key("account:ada@example.com"), accounts.passwords.hash_password(PASSWORD))
    assert accounts.sign_in("ada@example.com", PASSWORD) is None


def test_an_account_without_a_password_is_signed_in_by_none(accounts: Accounts, store: Any) -> None:
    add(accounts)
    store.delete(credential_key("account:ada@example.com"))
    assert accounts.sign_in("ada@example.com", PASSWORD) is None


def test_an_unknown_subject_is_nobody(accounts: Accounts) -> None:
    assert accounts.principal_of("account:bob@example.com") is None


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
        accounts.principal_of(name)
    with pytest.raises(UnreadableEventError):
        accounts.sign_in("ada@example.com", PASSWORD)


def test_neither_password_nor_hash_is_anywhere_but_in_the_credential(accounts: Accounts, store: Any) -> None:
    add(accounts)
    accounts.sign_in("ada@example.com", PASSWORD)
    accounts.sign_in("ada@example.com", "canary of a wrong password")
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
