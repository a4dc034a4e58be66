"""Given events, when a command is decided, then these payloads."""

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
def test_an_account_can_be_added_with_any_role(role: str) -> None:
    assert decide_new(AddAccount(role=role), None) == (AccountAdded(role=role),)


def test_adding_an_existing_account_is_rejected() -> None:
    with pytest.raises(AccountExistsError, match=r"ada@example\.com has an account already"):
        decide_new(AddAccount(role="owner"), ADA)


def test_adding_with_an_unknown_role_is_rejected_with_the_valid_roles() -> None:
    with pytest.raises(InvalidFieldError, match="one of owner, developer, auditor") as refusal:
        decide_new(AddAccount(role="root"), None)
    assert refusal.value.field == "role"


def test_an_account_is_folded_from_its_events() -> None:
    assert fold([event(AccountAdded(role="owner"))]) == ADA


def after(*payloads: Payload, actor: Actor = OPERATOR) -> Account:
    """Ada's account after these events follow its creation."""
    history = [event(AccountAdded(role="owner"))]
    history += [event(payload, version, actor) for version, payload in enumerate(payloads, 2)]
    account = fold(history)
    assert account is not None
    return account


def test_changing_the_role_keeps_sessions() -> None:
    payloads = decide(ChangeRole(role="auditor", by="account:bob@example.com"), ADA)
    assert payloads == (AccountRoleChanged(before="owner", after="auditor"),)
    assert after(*payloads) == replace(ADA, role="auditor", version=2)


def test_disabling_an_account_ends_its_sessions() -> None:
    payloads = decide(DisableAccount(reason="left", by="account:bob@example.com"), ADA)
    assert payloads == (AccountDisabled(reason="left"),)
    assert after(*payloads) == replace(ADA, enabled=False, sessions_end=2, version=2)


def test_enabling_an_account_does_not_restore_its_old_sessions() -> None:
    disabled = after(AccountDisabled(reason=""))
    payloads = decide(EnableAccount(), disabled)
    assert payloads == (AccountEnabled(),)
    assert after(AccountDisabled(reason=""), *payloads) == replace(ADA, sessions_end=2, version=3)


def test_signing_out_everywhere_ends_all_sessions() -> None:
    payloads = decide(SignOutEverywhere(), ADA)
    assert payloads == (SignedOutEverywhere(),)
    assert after(*payloads) == replace(ADA, sessions_end=2, version=2)


@pytest.mark.parametrize(("actor", "given"), [(HERSELF, False), (OTHER_OWNER, True), (OPERATOR, True)])
def test_a_password_set_by_someone_else_is_temporary_and_ends_the_sessions(actor: Actor, given: bool) -> None:
    payloads = decide(ChangePassword(), ADA)
    assert payloads == (PasswordChanged(),)
    assert after(*payloads, actor=actor) == replace(ADA, password_is_given=given, sessions_end=2, version=2)


def test_a_reset_makes_a_chosen_password_temporary_again() -> None:
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
def test_setting_the_current_state_records_no_event(command: Change, account: Account) -> None:
    assert decide(command, account) == ()


@pytest.mark.parametrize(
    "command", [ChangeRole(role="auditor", by=ADA.subject), DisableAccount(reason="", by=ADA.subject)]
)
def test_owners_cannot_demote_or_disable_themselves(command: Change) -> None:
    with pytest.raises(OwnAccountError, match="Ask another owner"):
        decide(command, ADA)


def test_changing_to_an_unknown_role_is_rejected() -> None:
    with pytest.raises(InvalidFieldError, match="one of owner, developer, auditor"):
        decide(ChangeRole(role="root", by="x"), ADA)


def test_an_empty_history_folds_to_no_account() -> None:
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
def test_an_inconsistent_or_unknown_history_is_unreadable(history: list[Event]) -> None:
    with pytest.raises(UnreadableEventError) as refusal:
        fold(history)
    assert refusal.value.position == history[-1].position
    assert refusal.value.subject == ADA.subject


def test_an_event_type_without_a_handler_is_unreadable() -> None:
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
def test_all_spellings_of_an_email_map_to_one_subject(typed: str) -> None:
    assert subject(typed) == "account:zo\u00eb@example.com"
    assert "account:zo\u00eb@example.com" in subjects(typed)


@pytest.mark.parametrize(
    "good", ["owner@localhost", "a@b", "a+b@example.com", "用户@例子.公司", "a" * 252 + "@b"]
)
def test_an_email_with_something_on_both_sides_of_the_at_sign_is_valid(good: str) -> None:
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
def test_an_invalid_email_is_rejected_with_the_rule_it_breaks(bad: str, rule: str) -> None:
    with pytest.raises(InvalidFieldError, match=rf"^The e-mail address .*{rule}") as refusal:
        checked_email(bad)
    assert refusal.value.field == "email"
