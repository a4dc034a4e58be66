"""Given events, when a command, then facts."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.accounts.domain import (
    Account,
    AccountExistsError,
    AddAccount,
    InvalidFieldError,
    checked_email,
    decide,
    evolve,
    fold,
    normalized,
    subject,
)
from shared.events import AccountAdded, Actor, Event, Fact, KeyToggled, Request, UnreadableEventError
from shared.identity import ROLES

ADA = Account(
    subject="account:ada@example.com", email="ada@example.com", workspace="w", role="owner", version=1
)


def event(fact: Fact, version: int = 1) -> Event:
    return Event(
        id=f"e{version}",
        type=fact.TYPE,
        schema=fact.SCHEMA,
        subject=ADA.subject,
        version=version,
        workspace="w",
        actor=Actor(kind="operator", id="operator", label="operator"),
        request=Request(id="r", ip=None, user_agent=None),
        data=fact,
        position=40 + version,
        at=0,
    )


@pytest.mark.parametrize("role", ROLES)
def test_a_person_without_account_is_added_in_any_role(role: str) -> None:
    assert decide(AddAccount(role=role), None) == (AccountAdded(role=role),)


def test_a_person_is_not_added_twice() -> None:
    with pytest.raises(AccountExistsError, match=r"ada@example\.com has an account already"):
        decide(AddAccount(role="owner"), ADA)


def test_an_unknown_role_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidFieldError, match="one of owner, developer, auditor") as refusal:
        decide(AddAccount(role="root"), None)
    assert refusal.value.field == "role"


def test_an_account_is_what_its_events_say() -> None:
    assert fold([event(AccountAdded(role="owner"))]) == ADA


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
    ],
    ids=["a fact of another subject", "one later on", "added twice", "a gap", "an unknown role"],
)
def test_a_history_that_is_not_understood_whole_is_refused(history: list[Event]) -> None:
    with pytest.raises(UnreadableEventError) as refusal:
        fold(history)
    assert refusal.value.position == history[-1].position
    assert refusal.value.subject == ADA.subject


def test_a_fact_without_code_is_refused() -> None:
    class AccountPromoted(Fact, frozen=True, kw_only=True):
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
    ],
)
def test_one_address_is_one_subject_however_it_is_typed(typed: str) -> None:
    assert subject(typed) == "account:zo\u00eb@example.com"


def test_case_is_folded_in_every_script() -> None:
    assert normalized("STRASSE@Straße.example") == "strasse@strasse.example"


@given(st.text())
@example("\u0390")  # leaves NFC when it is folded
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    once = normalized(text)
    assert normalized(once) == once
    assert unicodedata.is_normalized("NFC", once)


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
        ("a da@example.com", "no blanks or control characters"),
        ("a\u00a0da@example.com", "no blanks or control characters"),
        ("a\x00da@example.com", "no blanks or control characters"),
        ("a\nda@example.com", "no blanks or control characters"),
        ("a\u200bda@example.com", "no blanks or control characters"),
        ("a\u202eda@example.com", "no blanks or control characters"),
        ("a\ud800da@example.com", "no blanks or control characters"),
        ("a" * 253 + "@b", "254 characters at most"),
    ],
)
def test_a_bad_address_is_refused_with_the_rule(bad: str, rule: str) -> None:
    with pytest.raises(InvalidFieldError, match=rf"^The e-mail address .*{rule}") as refusal:
        checked_email(bad)
    assert refusal.value.field == "email"
