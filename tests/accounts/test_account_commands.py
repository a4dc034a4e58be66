"""Account commands and principal lookup, run against a ledger."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import fakeredis
import pytest
from argon2 import PasswordHasher
from limits import parse

from services.accounts.commands import Accounts, NoLongerAllowedError, NoSuchAccountError
from services.accounts.login_throttle import LoginThrottle, TooManyAttemptsError
from services.accounts.model.account import AccountExistsError, OwnAccountError
from services.accounts.passwords import HasherBusyError, Passwords
from shared.errors import InvalidFieldError, UserFacingError
from shared.eventstore.envelope import Request, UnreadableEventError, enveloped
from shared.eventstore.events import (
    AccountAdded,
    AccountDisabled,
    AccountEnabled,
    AccountRoleChanged,
    KeyToggled,
    PasswordChanged,
    SignedOutEverywhere,
)
from shared.eventstore.ledger import Ledger, credential_key
from shared.eventstore.payload import Payload
from shared.identity import ADMIN, AUDIT_READ, KEYS_READ, KEYS_WRITE, ROLES, ForbiddenError, Principal
from shared.store.idempotency import Idempotency

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
    return Ledger(store, secret_key="a secret of 32 characters at least")


@pytest.fixture
def accounts(ledger: Ledger, store: Any) -> Accounts:
    ids = map("e{}".format, count(1))
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    attempts = LoginThrottle(store, parse("3/10 minutes"))
    return Accounts(ledger, Passwords(hasher), attempts, lambda: next(ids))


def person(email: str, role: str = "owner", workspace: str = "default") -> Principal:
    """A signed-in account with the scopes of the role."""
    return Principal(
        kind="account", id=f"account:{email}", label=email, workspace=workspace, scopes=ROLES[role]
    )


ADA, BOB = person("ada@example.com"), person("bob@example.com")
EVE = person("eve@example.com", "developer")  # without an account here


def is_password(accounts: Accounts, password: str, email: str = "ada@example.com") -> bool:
    """Whether the password matches the stored credential."""
    return accounts.passwords.verify(accounts.ledger.credential(f"account:{email}"), password)


def payloads(ledger: Ledger, email: str = "ada@example.com") -> list[Payload]:
    """The payloads of an account's events after it was added."""
    return [event.data for event in ledger.history(f"account:{email}")][1:]


def add(
    accounts: Accounts, email: str = "ada@example.com", role: str = "owner", password: str = PASSWORD
) -> int:
    account = accounts.add(OPERATOR, email, role, password, REQUEST)
    return accounts.ledger.history(account.subject)[-1].position


def test_adding_an_account_records_one_event_with_its_actor(accounts: Accounts, ledger: Ledger) -> None:
    account = accounts.add(OPERATOR, "Ada@Example.com", "developer", PASSWORD, REQUEST)
    (event,) = ledger.history("account:ada@example.com")
    assert (account.email, account.version, event.position) == ("ada@example.com", 1, 1)
    assert (event.id, event.version, event.workspace) == ("e1", 1, "default")
    assert (event.actor, event.request) == (OPERATOR.actor, REQUEST)
    assert event.data == AccountAdded(role="developer")


def test_an_account_is_loaded_by_any_spelling_of_its_email(accounts: Accounts) -> None:
    add(accounts)
    account = accounts.load(" ADA@example.com ")
    assert account is not None
    assert (account.email, account.workspace, account.role) == ("ada@example.com", "default", "owner")
    assert accounts.load("bob@example.com") is None


def test_adding_another_spelling_of_an_existing_email_is_rejected(accounts: Accounts, ledger: Ledger) -> None:
    add(accounts, "zo\u00eb@example.com")
    with pytest.raises(AccountExistsError):
        add(accounts, " ZOE\u0308@EXAMPLE.COM", password="another password")
    assert ledger.head().position == 1
    assert is_password(accounts, "another password", "zo\u00eb@example.com") is False


def test_only_one_of_two_concurrent_adds_of_the_same_email_succeeds(
    accounts: Accounts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(accounts)
    # The other request's event is appended after this one has read the history.
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
def test_invalid_input_writes_nothing(
    accounts: Accounts, store: Any, email: str, role: str, password: str, field: str
) -> None:
    with pytest.raises(InvalidFieldError) as refusal:
        add(accounts, email, role, password)
    assert refusal.value.field == field
    assert store.keys() == []


INTERNATIONAL = ["ann@münchen.example", "ann@xn--mnchen-3ya.example", "ANN@XN--MNCHEN-3YA.example"]


def add_as_it_was_once_stored(accounts: Accounts, email: str) -> None:
    """Adds an account under a spelling that earlier versions stored and today's code doesn't."""
    events = enveloped(
        [AccountAdded(role="developer")],
        subject=f"account:{email}",
        after_version=0,
        workspace="default",
        actor=OPERATOR.actor,
        request=REQUEST,
        new_id=accounts.new_id,
    )
    credential = accounts.passwords.hash_password(PASSWORD)
    accounts.ledger.append(f"account:{email}", events, 0, credential=credential)


@pytest.mark.parametrize("added", INTERNATIONAL)
@pytest.mark.parametrize("typed", INTERNATIONAL)
def test_unicode_and_punycode_spellings_of_a_domain_are_one_account(
    accounts: Accounts, added: str, typed: str
) -> None:
    add(accounts, added)
    account = accounts.load(typed)
    assert account is not None
    assert (account.subject, account.email) == ("account:ann@münchen.example", "ann@münchen.example")
    with pytest.raises(AccountExistsError):
        add(accounts, typed)
    assert accounts.change_role(OPERATOR, typed, "auditor", REQUEST).version == 2


@pytest.mark.parametrize("stored", ["ann@münchen.example", "ann@xn--mnchen-3ya.example"])
@pytest.mark.parametrize("typed", INTERNATIONAL)
def test_an_account_stored_under_an_old_spelling_is_found_and_not_duplicated(
    accounts: Accounts, stored: str, typed: str
) -> None:
    add_as_it_was_once_stored(accounts, stored)
    account = accounts.disable(OPERATOR, typed, "", REQUEST)
    assert (account.email, account.version) == (stored, 2)
    with pytest.raises(AccountExistsError):
        add(accounts, typed)


def test_accounts_stored_under_two_spellings_are_each_found_by_their_own(accounts: Accounts) -> None:
    for email in INTERNATIONAL[:2]:
        add_as_it_was_once_stored(accounts, email)
    for email in INTERNATIONAL[:2]:
        account = accounts.load(email)
        assert account is not None
        assert account.email == email


def test_an_eszett_domain_falls_back_to_the_ss_account_until_it_has_its_own(
    accounts: Accounts,
) -> None:
    add_as_it_was_once_stored(accounts, "ann@strasse.example")
    for added in (False, True):
        if added:
            add(accounts, "ann@straße.example")
        account = accounts.load("ann@straße.example")
        assert account is not None
        assert account.email == ("ann@straße.example" if added else "ann@strasse.example")


@pytest.mark.parametrize("scopes", [set(), {KEYS_READ, KEYS_WRITE, AUDIT_READ}])
def test_adding_an_account_requires_the_admin_scope(accounts: Accounts, store: Any, scopes: set[str]) -> None:
    with pytest.raises(ForbiddenError):
        accounts.add(replace(OPERATOR, scopes=frozenset(scopes)), "a@b", "auditor", PASSWORD, REQUEST)
    assert store.keys() == []


def test_a_principal_has_the_scopes_of_the_accounts_role(accounts: Accounts) -> None:
    add(accounts, role="auditor")
    assert accounts.principal_of("account:ada@example.com", 1) == Principal(
        kind="account",
        id="account:ada@example.com",
        label="ada@example.com",
        workspace="default",
        scopes=frozenset({KEYS_READ, AUDIT_READ}),
    )


def test_an_unknown_subject_has_no_principal(accounts: Accounts) -> None:
    assert accounts.principal_of("account:bob@example.com", 1) is None


def test_an_account_with_an_unreadable_history_gets_no_principal(accounts: Accounts, ledger: Ledger) -> None:
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


def test_a_role_change_applies_immediately_and_keeps_sessions(accounts: Accounts, ledger: Ledger) -> None:
    add(accounts)
    add(accounts, BOB.label)
    changed = accounts.change_role(BOB, " Ada@example.com", "auditor", REQUEST)
    assert (changed.role, changed.version) == ("auditor", 2)
    assert payloads(ledger) == [AccountRoleChanged(before="owner", after="auditor")]
    principal = accounts.principal_of(ADA.id, 1)
    assert principal is not None
    assert principal.scopes == ROLES["auditor"]


def test_enabling_a_disabled_account_does_not_restore_its_old_sessions(
    accounts: Accounts, ledger: Ledger
) -> None:
    add(accounts)
    add(accounts, BOB.label)
    accounts.disable(BOB, "ada@example.com", "left", REQUEST)
    assert accounts.principal_of(ADA.id, 1) is accounts.principal_of(ADA.id, 2) is None
    accounts.enable(BOB, "ada@example.com", REQUEST)
    assert accounts.principal_of(ADA.id, 1) is None
    assert accounts.principal_of(ADA.id, 3) == ADA
    assert payloads(ledger) == [AccountDisabled(reason="left"), AccountEnabled()]


def test_setting_the_current_status_or_role_records_no_event(accounts: Accounts, ledger: Ledger) -> None:
    add(accounts)
    add(accounts, BOB.label)
    assert accounts.enable(BOB, "ada@example.com", REQUEST).version == 1
    assert accounts.change_role(BOB, "ada@example.com", "owner", REQUEST).version == 1
    assert payloads(ledger) == []


def test_signing_out_everywhere_ends_earlier_sessions(accounts: Accounts) -> None:
    add(accounts)
    assert accounts.principal_of(ADA.id, 1)
    ended = accounts.sign_out_everywhere(ADA, REQUEST)
    assert accounts.principal_of(ADA.id, 1) is None
    assert accounts.principal_of(ADA.id, ended.version)


def test_a_role_change_succeeds_despite_a_concurrent_change_to_the_account(
    accounts: Accounts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(accounts)
    add(accounts, BOB.label)
    append, tries = Ledger.append, iter([True, False, False])

    def outrun(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if next(tries):
            accounts.sign_out_everywhere(ADA, REQUEST)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", outrun)
    assert accounts.change_role(BOB, "ada@example.com", "auditor", REQUEST).version == 3
    assert [type(payload) for payload in payloads(ledger)] == [SignedOutEverywhere, AccountRoleChanged]


OWNERS_COMMANDS: list[Callable[[Accounts, Principal, str], object]] = [
    lambda accounts, by, email: accounts.change_role(by, email, "auditor", REQUEST),
    lambda accounts, by, email: accounts.disable(by, email, "", REQUEST),
    lambda accounts, by, email: accounts.enable(by, email, REQUEST),
    lambda accounts, by, email: accounts.reset_password(by, email, PASSWORD, REQUEST),
    lambda accounts, by, email: accounts.find(by, email),
]


@pytest.mark.parametrize("command", OWNERS_COMMANDS)
def test_only_owners_can_manage_accounts_and_others_cannot_probe_for_them(
    accounts: Accounts, ledger: Ledger, command: Callable[[Accounts, Principal, str], object]
) -> None:
    add(accounts)
    for role in ("developer", "auditor"):
        for email in ("ada@example.com", "nobody@example.com"):
            with pytest.raises(ForbiddenError) as refusal:
                command(accounts, person("eve@example.com", role), email)
            assert refusal.value.principal.id == "account:eve@example.com"
    assert payloads(ledger) == []


@pytest.mark.parametrize("command", OWNERS_COMMANDS)
def test_an_account_in_another_workspace_is_reported_as_unknown(
    accounts: Accounts, ledger: Ledger, command: Callable[[Accounts, Principal, str], object]
) -> None:
    add(accounts)
    mallory = person("mallory@example.com", workspace="other")
    accounts.add(replace(OPERATOR, workspace="other"), mallory.label, "owner", PASSWORD, REQUEST)
    messages = []
    for email in ("ada@example.com", "eva@example.com"):
        with pytest.raises(NoSuchAccountError) as refusal:
            command(accounts, mallory, email)
        messages.append(str(refusal.value).replace(email, "…"))
    assert messages[0] == messages[1]
    assert payloads(ledger) == []
    assert is_password(accounts, PASSWORD)


@pytest.mark.parametrize("command", [OWNERS_COMMANDS[0], OWNERS_COMMANDS[1], OWNERS_COMMANDS[3]])
def test_owners_cannot_demote_disable_or_reset_their_own_account(
    accounts: Accounts, ledger: Ledger, command: Callable[[Accounts, Principal, str], object]
) -> None:
    add(accounts)
    with pytest.raises(OwnAccountError):
        command(accounts, ADA, " ADA@example.com")
    assert payloads(ledger) == []
    assert is_password(accounts, PASSWORD)


def test_a_password_reset_replaces_the_password_and_ends_the_sessions(
    accounts: Accounts, ledger: Ledger
) -> None:
    add(accounts)
    add(accounts, BOB.label)
    assert accounts.reset_password(BOB, "ada@example.com", "a given password", REQUEST)
    assert [is_password(accounts, p) for p in (PASSWORD, "a given password")] == [False, True]
    assert accounts.principal_of(ADA.id, 1) is None
    assert payloads(ledger) == [PasswordChanged()]
    assert accounts.own(ADA).password_is_given


def test_a_reset_gives_an_imported_account_a_password(accounts: Accounts, store: Any) -> None:
    add(accounts)
    add(accounts, BOB.label)
    store.delete(credential_key("account:ada@example.com"))
    assert accounts.reset_password(BOB, "ada@example.com", "a given password", REQUEST)
    assert is_password(accounts, "a given password")


@pytest.mark.parametrize("at_once", [False, True])
def test_a_repeated_password_reset_takes_effect_once(
    accounts: Accounts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    add(accounts)
    add(accounts, BOB.label)
    asked = Idempotency.of("account:bob", "form-1", b"ada@example.com")
    assert accounts.reset_password(BOB, "ada@example.com", "a given password", REQUEST, asked)
    if at_once:
        monkeypatch.setattr(Ledger, "recall", lambda *_: None)
    assert not accounts.reset_password(BOB, "ada@example.com", "another password", REQUEST, asked)
    assert is_password(accounts, "a given password")
    assert payloads(ledger) == [PasswordChanged()]


def test_users_change_their_own_password_with_the_current_one(accounts: Accounts, ledger: Ledger) -> None:
    add(accounts)
    changed = accounts.change_password(ADA, PASSWORD, "a password of my own", REQUEST)
    assert not changed.password_is_given
    assert is_password(accounts, "a password of my own")
    assert payloads(ledger) == [PasswordChanged()]
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
def test_a_rejected_password_change_keeps_the_current_password(
    accounts: Accounts, ledger: Ledger, current: str, new: str, field: str
) -> None:
    add(accounts)
    with pytest.raises(InvalidFieldError) as refusal:
        accounts.change_password(ADA, current, new, REQUEST)
    assert refusal.value.field == field
    assert payloads(ledger) == []
    assert is_password(accounts, PASSWORD)


def test_guesses_at_the_current_password_are_limited_per_session(accounts: Accounts) -> None:
    add(accounts)
    for _ in range(3):
        with pytest.raises(InvalidFieldError):
            accounts.change_password(ADA, "a wrong guess", "a password of my own", REQUEST, "open browser")
    with pytest.raises(TooManyAttemptsError):
        accounts.change_password(ADA, PASSWORD, "a password of my own", REQUEST, "open browser")
    assert is_password(accounts, PASSWORD)
    assert accounts.change_password(ADA, PASSWORD, "a password of my own", REQUEST, "another browser")


def test_failed_sign_ins_do_not_block_a_password_change(accounts: Accounts) -> None:
    add(accounts)
    for number in range(20):  # to the account, and from the same IP address to others
        with suppress(TooManyAttemptsError), accounts.attempts.sign_in(ADA.id, REQUEST.ip):
            pass
        with suppress(TooManyAttemptsError), accounts.attempts.sign_in(f"account:{number}", REQUEST.ip):
            pass
    with pytest.raises(TooManyAttemptsError), accounts.attempts.sign_in(ADA.id, "203.0.113.9"):
        pass
    assert accounts.change_password(ADA, PASSWORD, "a password of my own", REQUEST, "s")


def test_wrong_guesses_in_a_session_do_not_block_signing_in(accounts: Accounts) -> None:
    add(accounts)
    for _ in range(3):
        with pytest.raises(InvalidFieldError):
            accounts.change_password(ADA, "a wrong guess", "a password of my own", REQUEST, "s")
    with accounts.attempts.sign_in(ADA.id, REQUEST.ip):
        pass


class Hashes(PasswordHasher):
    """A cheap hasher that counts its calls."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.made = 0

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.made += 1
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002
        self.made += 1
        return super().verify(hash, password)


# Each is refused for a reason that can be checked without hashing the password.
REFUSED: list[Callable[[Accounts], object]] = [
    lambda accounts: accounts.change_password(ADA, PASSWORD, "too short", REQUEST, "s"),
    lambda accounts: accounts.change_password(ADA, PASSWORD, PASSWORD, REQUEST, "s"),
    lambda accounts: accounts.change_password(
        ADA, "a wrong guess", "a password of my own", REQUEST, "used up"
    ),
    lambda accounts: accounts.change_password(EVE, PASSWORD, "a password of my own", REQUEST, "s"),
    lambda accounts: accounts.reset_password(ADA, ADA.label, "a given password", REQUEST),
    lambda accounts: accounts.reset_password(ADA, "nobody@example.com", "a given password", REQUEST),
    lambda accounts: accounts.reset_password(ADA, BOB.label, "too short", REQUEST),
    lambda accounts: accounts.reset_password(EVE, BOB.label, "a given password", REQUEST),
    lambda accounts: accounts.reset_password(BOB, ADA.label, "a given password", REQUEST),
    lambda accounts: accounts.add(ADA, BOB.label, "owner", PASSWORD, REQUEST),
    lambda accounts: accounts.add(ADA, "new@example.com", "root", PASSWORD, REQUEST),
    lambda accounts: accounts.add(ADA, "new@example.com", "owner", "too short", REQUEST),
    lambda accounts: accounts.add(EVE, "new@example.com", "owner", PASSWORD, REQUEST),
    lambda accounts: accounts.add(BOB, "new@example.com", "owner", PASSWORD, REQUEST),
]


@pytest.mark.parametrize("command", REFUSED)
def test_a_request_refused_for_another_reason_hashes_no_password(
    accounts: Accounts, ledger: Ledger, command: Callable[[Accounts], object]
) -> None:
    for email in (ADA.label, BOB.label):
        add(accounts, email)
    for _ in range(3):
        with accounts.attempts.password_change(ADA.id, "used up"):
            pass
    for _ in range(15):
        with accounts.attempts.given_password(BOB.id):
            pass
    before, hashes = ledger.head(), Hashes()
    counted = replace(accounts, passwords=Passwords(hashes))
    with pytest.raises((UserFacingError, ForbiddenError)):
        command(counted)
    assert (hashes.made, ledger.head()) == (0, before)


def test_the_operator_can_add_accounts_without_a_limit(accounts: Accounts) -> None:
    for number in range(20):
        add(accounts, f"person{number}@example.com")


def test_a_busy_hasher_changes_nothing_and_does_not_count_as_an_attempt(
    accounts: Accounts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for email in (ADA.label, BOB.label):
        add(accounts, email)
    before = ledger.head()
    commands: list[Callable[[], object]] = [
        lambda: accounts.change_password(ADA, PASSWORD, "a password of my own", REQUEST, "s"),
        lambda: accounts.reset_password(ADA, BOB.label, "a given password", REQUEST),
        lambda: accounts.add(ADA, "new@example.com", "owner", PASSWORD, REQUEST),
    ]

    def busy(*_: Any) -> Any:
        raise HasherBusyError

    with monkeypatch.context() as patch:
        patch.setattr(Passwords, "_run", busy)
        for command in commands * 20:
            with pytest.raises(HasherBusyError):
                command()
    assert ledger.head() == before
    for command in reversed(commands):
        command()


# Ways for one owner to remove another. Two owners doing it to each other would leave no owner.
REMOVALS: list[Callable[[Accounts, Principal, str], object]] = [
    lambda accounts, by, email: accounts.change_role(by, email, "auditor", REQUEST),
    lambda accounts, by, email: accounts.disable(by, email, "", REQUEST),
]


@pytest.mark.parametrize("mine", REMOVALS)
@pytest.mark.parametrize("theirs", REMOVALS)
def test_two_owners_cannot_remove_each_other_concurrently(
    accounts: Accounts,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    mine: Callable[[Accounts, Principal, str], object],
    theirs: Callable[[Accounts, Principal, str], object],
) -> None:
    for email in (ADA.label, BOB.label):
        add(accounts, email)
    append, first = Ledger.append, iter([True])

    def outrun(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if next(first, False):
            theirs(accounts, BOB, ADA.label)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", outrun)
    with pytest.raises(NoLongerAllowedError):
        mine(accounts, ADA, BOB.label)
    assert accounts.principal_of(BOB.id, 1) == BOB
    assert payloads(ledger, BOB.label) == []


# What can happen to an owner while one of their requests is in flight.
MEANWHILE: dict[str, Callable[[Accounts], object]] = {
    "demoted": lambda accounts: accounts.change_role(BOB, ADA.label, "developer", REQUEST),
    "disabled": lambda accounts: accounts.disable(BOB, ADA.label, "", REQUEST),
    "disabled and enabled": lambda accounts: [
        accounts.disable(BOB, ADA.label, "", REQUEST),
        accounts.enable(BOB, ADA.label, REQUEST),
    ],
    "given another password": lambda accounts: accounts.reset_password(
        BOB, ADA.label, "a given password", REQUEST
    ),
    "signed out everywhere": lambda accounts: accounts.sign_out_everywhere(ADA, REQUEST),
}
IN_FLIGHT: dict[str, Callable[[Accounts], object]] = {
    "add": lambda accounts: accounts.add(ADA, "new@example.com", "owner", PASSWORD, REQUEST),
    "role": lambda accounts: accounts.change_role(ADA, "carl@example.com", "owner", REQUEST),
    "disable": lambda accounts: accounts.disable(ADA, "carl@example.com", "", REQUEST),
    "enable": lambda accounts: accounts.enable(ADA, "dora@example.com", REQUEST),
    "reset": lambda accounts: accounts.reset_password(ADA, "carl@example.com", "a given password", REQUEST),
}


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("command", IN_FLIGHT)
@pytest.mark.parametrize("at", ["append", "first look"])
def test_an_owners_request_fails_if_they_lose_their_rights_or_session_meanwhile(
    accounts: Accounts, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, meanwhile: str, command: str, at: str
) -> None:
    for email in (ADA.label, BOB.label, "dora@example.com"):
        add(accounts, email)
    add(accounts, "carl@example.com", "auditor")
    accounts.disable(OPERATOR, "dora@example.com", "", REQUEST)
    others = ("new@example.com", "carl@example.com", "dora@example.com")
    before = [len(ledger.history(f"account:{email}")) for email in others]
    owner, name = (Ledger, "append") if at == "append" else (Accounts, "_guard")
    act, first = getattr(owner, name), iter([True])

    def outrun(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(first, False):
            MEANWHILE[meanwhile](accounts)
        return act(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, outrun)
    with pytest.raises(NoLongerAllowedError):
        IN_FLIGHT[command](accounts)
    assert [len(ledger.history(f"account:{email}")) for email in others] == before


@pytest.mark.parametrize("meanwhile", ["disabled", "disabled and enabled", "signed out everywhere"])
def test_a_password_change_fails_if_the_session_ends_meanwhile(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    for email in (ADA.label, BOB.label):
        add(accounts, email)
    replaced = Passwords.replace

    def slow(self: Passwords, *args: Any) -> str | None:
        MEANWHILE[meanwhile](accounts)
        return replaced(self, *args)

    monkeypatch.setattr(Passwords, "replace", slow)
    with pytest.raises(NoLongerAllowedError):
        accounts.change_password(ADA, PASSWORD, "a password of my own", REQUEST)
    assert is_password(accounts, PASSWORD)


def test_an_owner_who_is_demoted_and_promoted_again_meanwhile_is_not_refused(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for email in (ADA.label, BOB.label):
        add(accounts, email)
    ada = accounts.principal_of(ADA.id, 1)
    assert ada is not None
    append, first = Ledger.append, iter([True])

    def outrun(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if next(first, False):
            for role in ("auditor", "owner"):
                accounts.change_role(BOB, ADA.label, role, REQUEST)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", outrun)
    assert accounts.add(ada, "new@example.com", "auditor", PASSWORD, REQUEST)


def test_a_password_change_with_the_old_password_fails_after_a_concurrent_reset(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(accounts)
    add(accounts, BOB.label)
    append, tries = Ledger.append, iter([True, False])

    def outrun(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        if next(tries):
            accounts.reset_password(BOB, "ada@example.com", "a given password", REQUEST)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", outrun)
    with pytest.raises(NoLongerAllowedError):
        accounts.change_password(ADA, PASSWORD, "the thief's password", REQUEST)
    assert is_password(accounts, "a given password")


def test_passwords_and_hashes_are_stored_only_in_the_credential(accounts: Accounts, store: Any) -> None:
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
    """Each key of the store with its value, whatever its type."""
    read = {
        b"string": store.get,
        b"list": lambda key: store.lrange(key, 0, -1),
        b"hash": store.hgetall,
        b"stream": store.xrange,
    }
    for key in store.scan_iter():
        yield key, repr(read[store.type(key)](key)).encode()
