"""The search terms of an event."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.log.terms import term_of, terms_by, terms_of, words_of_name, words_sought
from shared.eventstore.envelope import Actor, Record, Request
from shared.eventstore.events import KeyDetails, KeyDetailsChanged
from tests.support.histories import AT, created, record

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


def words_in(terms: set[str]) -> set[str]:
    return {term for term in terms if "=" not in term}


def test_an_event_has_a_term_for_every_filter_and_every_word() -> None:
    actor = Actor(kind="key", id="3fA9", label="Nightly CI")
    request = Request(id="checkout-42", ip="192.0.2.7", user_agent="curl/8.7")
    event = record(1, created("Data-Sync", description="für alle"), actor=actor, request=request)
    terms = terms_of(event)
    assert {
        term_of("workspace", "default"),
        term_of("subject", "key:1"),
        term_of("type", "KeyCreated"),
        term_of("address", "192.0.2.7"),
        term_of("actor", "3fA9"),
        term_of("label", "Nightly CI"),
        term_of("kind", "key"),
        "name=data",
        "name=sync",
    } == {term for term in terms if "=" in term}
    assert {"data", "sync", "fur", "alle", "nightly", "ci", "checkout", "42", "orders", "read"} <= terms


def test_a_non_canonical_ip_address_is_found_by_both_spellings() -> None:
    request = Request(id="r", ip="198.51.100.7:40001", user_agent=None)
    terms = terms_of(record(1, request=request))
    assert {term_of("address", ip) for ip in ("198.51.100.7", "198.51.100.7:40001")} <= terms


@pytest.mark.parametrize("typed", ["Ann@MÜNCHEN.example", "ann@xn--mnchen-3ya.example"])
@pytest.mark.parametrize("stored", ["ann@münchen.example", "ann@xn--mnchen-3ya.example"])
def test_an_account_is_found_by_either_spelling_of_its_domain(typed: str, stored: str) -> None:
    actor = Actor(kind="account", id=f"account:{stored}", label=stored)
    terms = terms_of(record(1, actor=actor))
    for named in (typed, f"account:{typed}"):
        assert terms & set(terms_by(named))
    assert not terms & set(terms_by("ann@muenchen.example"))


def test_key_digests_are_not_indexed() -> None:
    assert "ab" * 32 not in terms_of(record(1, created()))


def test_a_renamed_key_is_found_by_both_names() -> None:
    before = KeyDetails(name="Old", description="", scopes=(), expires_at=None)
    payload = KeyDetailsChanged(before=before, after=msgspec.structs.replace(before, name="New"), reason="")
    assert {"name=old", "name=new"} <= terms_of(record(1, payload))


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b"\xff", b'{"data":{"name":7,"before":[]},"actor":1}'])
def test_an_unreadable_event_has_no_terms(body: bytes) -> None:
    assert terms_of(Record(1, AT, body)) == set()


def test_deeply_nested_text_is_indexed() -> None:
    deep = b'{"data":' + b'{"a":[' * 400 + b'"treasure"' + b"]}" * 400 + b"}"
    assert terms_of(Record(1, AT, deep)) == {"treasure"}


@given(texts, texts)
def test_searching_for_a_text_finds_the_event_that_contains_it(text: str, more: str) -> None:
    terms = terms_of(record(1, created(f"{text} {more}")))
    for sought in (words_sought(text), words_of_name(text)):
        assert sought == ((),) or all(any(term in terms for term in some) for some in sought)


@given(texts)
def test_indexed_words_contain_no_query_syntax(text: str) -> None:
    payload = created("n", description=text)
    assert not {character for word in words_in(terms_of(record(1, payload))) for character in word} & set(
        "='\"& |()\\\0"
    )
