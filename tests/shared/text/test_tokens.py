import random
from base64 import b64encode
from collections.abc import Callable
from operator import itemgetter
from textwrap import wrap
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.keys.model.token import mint
from shared.text.key_detection import holds_key, redacted, refusal, resembles_key, without_keys

TOKEN = mint("kl", "default", random.Random(5).randrange).reveal()


def _every_character(text: str) -> str:
    return "".join(f"%{ord(character):02x}" for character in text)


# Notations of a complete or truncated key.
DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in a sentence": "it is {} and no other".format,
    "joined to words": "key:{}.".format,
    "percent-encoded": _every_character,
    "percent-encoded twice": lambda token: quote(_every_character(token)),
    "with its underscore encoded": lambda token: token.replace("_", "%5F"),
    "with spaces between": " ".join,
    "on several lines": lambda token: "\n".join(token[n : n + 10] for n in range(0, len(token), 10)),
    "with hyphens": lambda token: "-".join(token[n : n + 5] for n in range(0, len(token), 5)),
    "with zero-width spaces": "\u200b".join,
    "with joiners": "\u200d".join,
    "with soft hyphens": "\u00ad".join,
    "with fillers": "\u3164".join,
    "with combining marks": "\u0336".join,
    "with encoded zero-width spaces": "%E2%80%8B".join,
    "in full-width characters": lambda token: "".join(chr(ord(character) + 0xFEE0) for character in token),
    "in mathematical letters": lambda token: "".join(
        chr(0x1D5BA + ord(character) - 97) if character.islower() else character for character in token
    ),
    "without its end": lambda token: token[:-7],
    "without its prefix": lambda token: token[3:],
    "without its beginning": lambda token: token[8:],
    "with its prefix in capitals": str.swapcase,
    "cut and in two parts": lambda token: f"{token[:28]} {token[28:47]}",
    "with its underscore as a space": lambda token: f"kl {token[3:28]} {token[28:]}",
    "without its prefix, with spaces between": lambda token: " ".join(token[3:]),
    "without its end, with spaces between": lambda token: " ".join(token[:-2]),
    "percent-encoded and cut": lambda token: _every_character(token)[: 3 * 41],
    "in hexadecimal digits": lambda token: token.encode().hex(),
    "in bytes of a program": lambda token: "".join(f"\\x{ord(character):02x}" for character in token),
    "in code points of a program": lambda token: "".join(f"\\u{ord(character):04X}" for character in token),
    "in HTML": lambda token: "".join(f"&#{ord(character)};" for character in token),
    "in HTML, in hexadecimal digits": lambda token: "".join(f"&#x{ord(character):x};" for character in token),
    "quoted-printable": lambda token: "".join(f"={ord(character):02X}" for character in token),
    "in wrapped base64": lambda token: "\n".join(wrap(b64encode(token.encode()).decode(), 36)),
    # Truncated at either end; what is left makes the secret too easy to guess.
    **{f"the last {length}": itemgetter(slice(-length, None)) for length in range(20, 53)},
    **{f"the first {length}": itemgetter(slice(length)) for length in range(26, 53)},
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_key_is_detected_and_removed_in_any_notation(disguise: str) -> None:
    text = DISGUISES[disguise](TOKEN)
    assert holds_key(text)
    assert resembles_key(text)
    assert not holds_key(without_keys(text))
    assert TOKEN[12:30] not in without_keys(text)


@given(st.text(max_size=30), st.text(max_size=30), st.integers(), st.integers(0, 5))
def test_a_key_is_detected_anywhere_in_a_text_even_without_its_end(
    before: str, after: str, seed: int, missing: int
) -> None:
    token = mint("kl", "default", random.Random(seed).randrange).reveal()
    text = f"{before}{token[: len(token) - missing]}{after}"
    assert holds_key(text)
    assert resembles_key(text)
    assert resembles_key(f"{before}{token[5:-5]}{after}")
    assert not holds_key(without_keys(text))


@pytest.mark.parametrize(("length", "missed"), [(20, 100), (26, 30), (38, 2)])
def test_nearly_every_key_without_its_beginning_is_detected(length: int, missed: int) -> None:
    digits = random.Random(7).randrange
    ends = [mint("kl", "default", digits).reveal()[-length:] for _ in range(1_000)]
    assert sum(not holds_key(f"leaked: {end}") for end in ends) <= missed


@given(st.text(max_size=300))
def test_any_text_can_be_checked_and_redacted(text: str) -> None:
    assert holds_key(text) in {True, False}
    assert redacted(text) == text or holds_key(text)


def test_a_key_with_another_prefix_is_detected() -> None:
    token = mint("kalp_live", "default", random.Random(6).randrange).reveal()
    assert holds_key(" ".join(token))
    assert holds_key("kl_" + "a" * 50)


def test_a_key_in_a_text_is_replaced_by_its_hint_or_a_placeholder() -> None:
    assert redacted(f"curl with {TOKEN} today") == f"curl with kl_{TOKEN[3:7]}… today"
    assert redacted(f"id%3D{TOKEN}; ok") == f"id%3Dkl_{TOKEN[3:7]}…; ok"
    assert redacted(f"a {_every_character(TOKEN)} b") == "a [API key] b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Data Sync Script",
        "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b of data_sync_for_internationalization",
        "kl_3fA9…x7Qz",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "artifact_9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "image_9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "org_internationalizationconfigurationservicefact",
        "3e4666bf-d5e5-4aa7-b8ce-cefe41c7568a",
        "Rindfleischetikettierungsueberwachungsaufgabenuebertragungsgesetz",
        "InternationalizationConfigurationServiceFactory",
        "rate 50%, 100%25 and%zz",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605",
        "ArnAwsS3BucketProductionEuropeWest1DataIngestPipelineV2",
        "arn:aws:iam::123456789012:role/service-role/KeyledgerProductionEuWest1LambdaExecutionRoleV2",
        "AIDAJDPLRKLG7UEXAMPLE 01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "Change-Id: I8091919d45421e3f53029b8660427f844fee0228",
        "3fA9bQ27LmZ0, 8xK2mQ11PqR4, 5tY7uVwX2z3A and kl_3fA9…x7Qz took over from ci_deploy",
        "https://example.org/wiki/ServiceOwners?page=12&from=2026-11-23T18%3A59%3A21Z#Section4",
        "the quick_brown fox jumps over the lazy dog and goes on for much more than fifty letters",
    ],
)
def test_ordinary_text_is_not_mistaken_for_a_key(text: str) -> None:
    assert not holds_key(text)
    assert redacted(text) == text == without_keys(text)


def test_the_error_names_the_part_that_looks_like_a_key_and_how_to_fix_it() -> None:
    text = "https://docs.google.com/spreadsheets/d/1BxiMVs0XRA5nFMdKvBdBZjgmUUqptlbs74OgvE2upms/edit"
    assert holds_key(text)
    assert refusal("It", text) == (
        "It contains what looks like an API key or part of one (“1Bxi…”, 44 letters and digits). Remove it: "
        "keys are never stored. If it is something else, shorten it to fewer than 20 letters and digits."
    )


def test_ids_dates_and_long_words_do_not_resemble_a_key() -> None:
    assert not resembles_key("3fA9bQ27LmZ0 2026-11-23T18:59:21.123Z internationalization")
