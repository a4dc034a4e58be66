"""Given events, when a command, then facts."""

import pytest
from msgspec.structs import replace

from services.accounts.model.account import (
    Account,
    AccountExistsError,
    AddAccount,
    Change,
    ChangePassword,
    ChangeRole,
    DisableAccount,
    EnableAccount,
    OwnAccountError,
    SignOutEverywhere,
    checked_email,
    decide,
    decide_new,
    evolve,
    fold,
    subject,
    subjects,
)
from shared.errors import InvalidFieldError
from shared.eventstore.envelope import Actor, Event, Request, UnreadableEventError
from shared.eventstore.events import (
    AccountAdded,
    AccountDisabled,
    AccountEnabled,
    AccountRoleChanged,
    KeyToggled,
    PasswordChanged,
    SignedOutEverywhere,
)
from shared.eventstore.payload import Payload
from shared.identity import ROLES

ADA = Account(
    subject="account:ada@example.com",
    email="ada@example.com",
    workspace="w",
    role="owner",
    enabled=True,
    password_is_given=True,
    sessions_end=0,
    version=1,
)
OPERATOR = Actor(kind="operator", id="operator", label="operator")
HERSELF = Actor(kind="account", id=ADA.subject, label=ADA.email)
OTHER_OWNER = Actor(kind="account", id="account:bob@example.com", label="bob@example.com")


def event(payload: Payload, version: int = 1, actor: Actor = OPERATOR) -> Event:
    return Event(
        id=f"e{version}",
        type=payload.TYPE,
        schema=payload.SCHEMA,
        subject=ADA.subject,
        version=version,
        workspace="w",
        actor=actor,
        request=Request(id="r", ip=None, user_agent=None),
        data=payload,
        position=40 + version,
        at=0,
    )


@pytest.mark.parametrize("role", ROLES)
def test_a_person_without_account_is_added_in_any_role(role: str) -> None:
    assert decide_new(AddAccount(role=role), None) == (AccountAdded(role=role),)


def test_a_person_is_not_added_twice() -> None:
    with pytest.raises(AccountExistsError, match=r"ada@example\.com has an account already"):
        decide_new(AddAccount(role="owner"), ADA)


def test_an_unknown_role_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidFieldError, match="one of owner, developer, auditor") as refusal:
        decide_new(AddAccount(role="root"), None)
    assert refusal.value.field == "role"


def test_an_account_is_what_its_events_say() -> None:
    assert fold([event(AccountAdded(role="owner"))]) == ADA


def after(*payloads: Payload, actor: Actor = OPERATOR) -> Account:
    """Ada's account after what happened to it once it was added."""
    history = [event(AccountAdded(role="owner"))]
    history += [event(payload, version, actor) for version, payload in enumerate(payloads, 2)]
    account = fold(history)
    assert account is not None
    return account


def test_a_role_changes_and_ends_no_session() -> None:
    payloads = decide(ChangeRole(role="auditor", by="account:bob@example.com"), ADA)
    assert payloads == (AccountRoleChanged(before="owner", after="auditor"),)
    assert after(*payloads) == replace(ADA, role="auditor", version=2)


def test_a_disabled_account_is_off_and_its_sessions_have_ended() -> None:
    payloads = decide(DisableAccount(reason="left", by="account:bob@example.com"), ADA)
    assert payloads == (AccountDisabled(reason="left"),)
    assert after(*payloads) == replace(ADA, enabled=False, sessions_end=2, version=2)


def test_an_enabled_account_is_on_again_and_its_old_sessions_stay_at_their_end() -> None:
    disabled = after(AccountDisabled(reason=""))
    payloads = decide(EnableAccount(), disabled)
    assert payloads == (AccountEnabled(),)
    assert after(AccountDisabled(reason=""), *payloads) == replace(ADA, sessions_end=2, version=3)


def test_signing_out_everywhere_ends_the_sessions() -> None:
    payloads = decide(SignOutEverywhere(), ADA)
    assert payloads == (SignedOutEverywhere(),)
    assert after(*payloads) == replace(ADA, sessions_end=2, version=2)


@pytest.mark.parametrize(("actor", "given"), [(HERSELF, False), (OTHER_OWNER, True), (OPERATOR, True)])
def test_a_changed_password_ends_the_sessions_and_is_given_unless_it_is_ones_own(
    actor: Actor, given: bool
) -> None:
    payloads = decide(ChangePassword(), ADA)
    assert payloads == (PasswordChanged(),)
    assert after(*payloads, actor=actor) == replace(ADA, password_is_given=given, sessions_end=2, version=2)


def test_a_password_that_was_reset_is_given_again() -> None:
    chosen = event(PasswordChanged(), 2, HERSELF)
    reset = event(PasswordChanged(), 3, OTHER_OWNER)
    history = [event(AccountAdded(role="owner")), chosen]
    assert [fold(history), fold([*history, reset])] == [
        replace(ADA, password_is_given=False, sessions_end=2, version=2),
        replace(ADA, password_is_given=True, sessions_end=3, version=3),
    ]


@pytest.mark.parametrize(
    ("command", "account"),
    [
        (ChangeRole(role="owner", by="account:bob@example.com"), ADA),
        (ChangeRole(role="owner", by=ADA.subject), ADA),
        (EnableAccount(), ADA),
        (DisableAccount(reason="again", by="x"), after(AccountDisabled(reason=""))),
    ],
)
def test_what_is_so_already_is_no_event(command: Change, account: Account) -> None:
    assert decide(command, account) == ()


@pytest.mark.parametrize(
    "command", [ChangeRole(role="auditor", by=ADA.subject), DisableAccount(reason="", by=ADA.subject)]
)
def test_nobody_shuts_themselves_out_so_a_workspace_keeps_an_owner(command: Change) -> None:
    with pytest.raises(OwnAccountError, match="Ask another owner"):
        decide(command, ADA)


def test_an_unknown_role_is_no_change() -> None:
    with pytest.raises(InvalidFieldError, match="one of owner, developer, auditor"):
        decide(ChangeRole(role="root", by="x"), ADA)


def test_no_events_are_no_account() -> None:
    assert fold([]) is None


@pytest.mark.parametrize(
    "history",
    [
        [event(KeyToggled(enabled=True, reason=""))],
        [event(AccountAdded(role="owner")), event(KeyToggled(enabled=True, reason=""), version=2)],
        [event(AccountAdded(role="owner")), event(AccountAdded(role="auditor"), version=2)],
        [event(AccountAdded(role="owner"), version=2)],
        [event(AccountAdded(role="a role of a later version"))],
        [
            event(AccountAdded(role="owner")),
            event(AccountRoleChanged(before="owner", after="pope"), version=2),
        ],
        [event(AccountDisabled(reason=""))],
        [event(AccountAdded(role="owner")), event(PasswordChanged(), version=3)],
    ],
    ids=[
        "a fact of another subject",
        "one later on",
        "added twice",
        "a gap",
        "an unknown role",
        "changed to an unknown role",
        "disabled before it was added",
        "a gap later on",
    ],
)
def test_a_history_that_is_not_understood_whole_is_refused(history: list[Event]) -> None:
    with pytest.raises(UnreadableEventError) as refusal:
        fold(history)
    assert refusal.value.position == history[-1].position
    assert refusal.value.subject == ADA.subject


def test_a_fact_without_code_is_refused() -> None:
    class AccountPromoted(Payload, frozen=True, kw_only=True):
        TYPE = "AccountPromoted"
        SCHEMA = 1

    with pytest.raises(UnreadableEventError, match="AccountPromoted"):
        evolve(ADA, event(AccountPromoted(), version=2))


@pytest.mark.parametrize(
    "typed",
    [
        "zoë@example.com",
        " Zoë@Example.COM\t",
        "ZOE\N{COMBINING DIAERESIS}@EXAMPLE.COM",
        "zoe\u0308@example.com",
        "zoe\u0308@ｅxample。com",
    ],
)
def test_one_address_is_one_subject_however_it_is_typed(typed: str) -> None:
    assert subject(typed) == "account:zo\u00eb@example.com"
    assert "account:zo\u00eb@example.com" in subjects(typed)


@pytest.mark.parametrize(
    "good", ["owner@localhost", "a@b", "a+b@example.com", "用户@例子.公司", "a" * 252 + "@b"]
)
def test_an_address_with_something_on_both_sides_is_good(good: str) -> None:
    assert checked_email(good) == good


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ("", "one @ with something on both sides"),
        ("   ", "one @ with something on both sides"),
        ("ada", "one @ with something on both sides"),
        ("@example.com", "one @ with something on both sides"),
        ("ada@", "one @ with something on both sides"),
        ("ada@b@c", "one @ with something on both sides"),
        ("ada@@c", "one @ with something on both sides"),
        ("a da@example.com", "can't contain spaces, control characters"),
        ("a\u00a0da@example.com", "can't contain spaces, control characters"),
        ("a\x00da@example.com", "can't contain spaces, control characters"),
        ("a\nda@example.com", "can't contain spaces, control characters"),
        ("a\u200bda@example.com", "can't contain spaces, control characters"),
        ("a\u202eda@example.com", "can't contain spaces, control characters"),
        ("a\ud800da@example.com", "can't contain spaces, control characters"),
        ("a" * 253 + "@b", "up to 254 characters"),
        ("a" * 235 + "@münchen.example", "up to 254 characters"),
        ("ada@☃.example", "a valid domain"),
        ("ada@xn--n3h.example", "a valid domain"),
        ("ada@xn--zz--.example", "a valid domain"),
        ("ada@a_b.münchen.example", "a valid domain"),
        ("ada@" + "ü" * 64 + ".example", "a valid domain"),
    ],
)
def test_a_bad_address_is_refused_with_the_rule(bad: str, rule: str) -> None:
    with pytest.raises(InvalidFieldError, match=rf"^The e-mail address .*{rule}") as refusal:
        checked_email(bad)
    assert refusal.value.field == "email"
