"""All spellings of an e-mail address's domain are normalized to one."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.text.email_addresses import is_valid_domain, normalized, spellings

READABLE, PUNYCODE = "ann@münchen.example", "ann@xn--mnchen-3ya.example"


@pytest.mark.parametrize(
    "typed",
    [
        READABLE,
        PUNYCODE,
        " ANN@MÜNCHEN.example ",
        "Ann@XN--MNCHEN-3YA.Example",
        "ann@mu\u0308nchen.example",
        "ann@MU\u0308NCHEN.example",
        "ann@münchen。example",
        "ann@ｍünchen.example",
        "ann@mün\u00adchen.example",
        "ann@münchen.example.",
        "ann@xn--mnchen-3ya.example.",
        "ann@münchen.example\u3002",
        "ann@münchen.example.\u00ad",
    ],
)
def test_all_spellings_of_an_international_domain_are_normalized_to_one(typed: str) -> None:
    assert normalized(typed) == READABLE
    assert {READABLE, PUNYCODE} <= set(spellings(typed))


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("Ann@Example.COM", "ann@example.com"),
        ("ann@example.com.", "ann@example.com"),
        ("ann@example.com\uff0e", "ann@example.com"),
        ("owner@LOCALHOST", "owner@localhost"),
        ("ann@a_b", "ann@a_b"),
        ("ann@[192.0.2.1]", "ann@[192.0.2.1]"),
        ("STRASSE@Straße.example", "strasse@straße.example"),
        ("ann@xn--strae-oqa.example", "ann@straße.example"),
        ("ann@strasse.example", "ann@strasse.example"),
        ("ann@βόλος.example", "ann@βόλος.example"),
        ("ann@тест.рф", "ann@тест.рф"),
        ("ann@xn--e1aybc.xn--p1ai", "ann@тест.рф"),
        ("ann@☃.example", "ann@☃.example"),
        ("ann@xn--n3h.example", "ann@xn--n3h.example"),
        ("ann@xn--zz--.example", "ann@xn--zz--.example"),
        ("no ADDRESS ü", "no address ü"),
        ("ann@" + "ü" * 10_000, "ann@" + "ü" * 10_000),
    ],
)
def test_an_email_is_normalized_without_merging_different_domains(typed: str, stored: str) -> None:
    assert normalized(typed) == stored


def test_an_ascii_email_has_one_spelling() -> None:
    assert spellings(" Ann@Example.com") == spellings("ann@example.com.") == ("ann@example.com",)


@pytest.mark.parametrize("domain", ["example.com", "a_b", "münchen.example", "xn--mnchen-3ya.example"])
def test_a_plain_or_international_domain_is_valid(domain: str) -> None:
    assert is_valid_domain(domain)


labels = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(
    st.text() | st.builds("{}@{}.{}".format, labels, labels, labels) | st.builds("a@xn--{}".format, labels)
)
@example("\u0390")  # leaves NFC when it is folded
@example("a@xn--mnchen-3ya.example..")
@example("a@ẞ\u0390_")
@example("a@\r.")
def test_normalization_is_idempotent(text: str) -> None:
    once = normalized(text)
    assert normalized(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once in spellings(text)
    assert {normalized(spelling) for spelling in spellings(text)} == {once}
