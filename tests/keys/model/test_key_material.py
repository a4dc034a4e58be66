import random
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.keys.model.token import ApiKey, MalformedKeyError, mint, parse, shard
from shared.text.key_detection import ALPHABET

PREFIXES = st.from_regex(r"[0-9A-Za-z]{1,5}(_[0-9A-Za-z]{1,5}){0,2}", fullmatch=True)


def minted(prefix: str = "kl", workspace: str = "default", seed: int = 1) -> ApiKey:
    return mint(prefix, workspace, random.Random(seed).randrange)


def test_a_key_has_the_form_that_secret_scanners_match() -> None:
    assert re.fullmatch(r"kl_[0-9A-Za-z]{50}", minted().reveal())


def test_the_checksum_is_the_base62_crc32_of_the_characters_before_it() -> None:
    token = minted().reveal()
    value = 0
    for character in token[-6:]:
        value = value * 62 + ALPHABET.index(character)
    assert value == zlib.crc32(token[:-6].encode())


@given(PREFIXES, st.text(max_size=20), st.integers())
def test_a_minted_key_can_be_parsed_under_any_prefix(prefix: str, workspace: str, seed: int) -> None:
    key = minted(prefix, workspace, seed)
    parsed = parse(key.reveal())
    assert (parsed.prefix, parsed.id, parsed.digest) == (prefix, key.id, key.digest)


@given(st.integers(0, 49), st.sampled_from(ALPHABET))
def test_a_mistyped_key_is_rejected_without_a_lookup(place: int, character: str) -> None:
    token = minted().reveal()
    mistyped = token[: 3 + place] + character + token[4 + place :]
    if mistyped != token:
        with pytest.raises(MalformedKeyError):
            parse(mistyped)


@given(st.text())
def test_arbitrary_text_is_malformed(text: str) -> None:
    with pytest.raises(MalformedKeyError):
        parse(text)


def test_the_id_starts_with_the_shard_of_the_workspace() -> None:
    assert minted(workspace="acme").id[:2] == shard("acme")
    number = zlib.crc32(b"acme") % 3844
    assert shard("acme") == ALPHABET[number // 62] + ALPHABET[number % 62]


def test_the_hint_shows_both_ends_of_the_token_but_not_the_secret() -> None:
    key = minted()
    token = key.reveal()
    assert key.hint == f"kl_{token[3:7]}…{token[-4:]}"
    assert token[15:47] not in key.hint


def test_repr_str_and_format_show_the_hint_and_never_the_token() -> None:
    key = minted()
    for text in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert key.reveal() not in text
        assert key.hint in text


def test_a_digest_matches_only_its_own_token() -> None:
    assert minted().matches(minted().digest)
    assert not minted().matches(minted(seed=2).digest)
