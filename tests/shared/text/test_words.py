"""The words that a search for keys and audit entries matches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.text.words import begin, with_characters, words, words_sought


def test_words_are_runs_of_letters_and_digits_and_single_emoji() -> None:
    assert words("Data-Sync_v2 (beta)") == ["data", "sync", "v2", "beta"]
    assert words("Δοκιμή, 🔑x") == ["δοκιμη", "🔑", "x"]
    assert words("!? —") == words("") == words("\u0301") == []


def finds(search: str, text: str) -> bool:
    sought = words_sought(search)
    return bool(sought) and begin(sought, words(text))


@pytest.mark.parametrize(
    ("search", "text"),
    [
        ("jose", "José"),
        ("JOSÉ", "jose\u0301"),
        ("José", "jose"),
        ("strasse", "Hauptstr. Straße"),
        ("STRASSE", "STRAẞE"),
        ("straße", "strasse"),
        ("istanbul", "İstanbul"),
        ("İSTANBUL", "istanbul"),
        ("isik", "IŞIK ışık"),
        ("soren lodz", "Søren Łódź"),
        ("aether", "Æther"),
        ("viet nam", "Việt Nam"),
        ("елка", "Ёлка"),
        ("αθηνα", "Αθήνα"),
        ("שלום", "שָׁלוֹם"),
        ("محمد", "مُحَمَّد"),
        ("abc 123", "ＡＢＣ\u3000１２３"),
        ("file", "ﬁle"),
        ("admin", "ad\u200bmin"),
        ("カタカナ", "ｶﾀｶﾅ"),
        ("ガ", "ｶﾞ"),
    ],
)
def test_a_search_ignores_case_accents_and_character_forms(search: str, text: str) -> None:
    assert finds(search, text)


@pytest.mark.parametrize(
    ("search", "text"),
    [
        ("京都", "東京都庁"),
        ("都庁", "東京都庁"),
        ("東", "東京都庁"),
        ("京", "東京都庁"),
        ("庁", "東京都庁"),
        ("鑰", "金鑰"),
        ("タベー", "データベース"),
        ("すと", "てすとよう"),
        ("テスト key", "本番テストAPI key"),
        ("테스트", "서버테스트용"),
        ("กุญแจ", "ระบบกุญแจหลัก"),
        ("ສຳ", "ລະຫັດສຳຄັນ"),
        ("សោ", "កូនសោសំខាន់"),
        ("သော", "အရေးကြီးသောသော့"),
        ("𠮷野", "株式会社𠮷野家"),
        ("2024年", "報告2024年度"),
        ("sync東", "データsync東京"),
    ],
)
def test_words_are_found_anywhere_in_a_script_without_spaces(search: str, text: str) -> None:
    assert finds(search, text)


@pytest.mark.parametrize("search", ["prod", "PROD", "🔑", "🔑prod", "🚀", "prod🚀"])
def test_a_word_is_found_next_to_an_emoji(search: str) -> None:
    assert finds(search, "🔑prod🚀")


@pytest.mark.parametrize(
    ("search", "text"),
    [
        ("京東", "東京都庁"),
        ("都京", "東京都庁"),
        ("か", "が"),
        ("ب", "ت"),
        ("กา", "กก"),
        ("abd", "abc"),
        ("庁東", "東京都庁"),
    ],
)
def test_text_that_does_not_contain_the_search_is_not_found(search: str, text: str) -> None:
    assert not finds(search, text)


def test_a_search_for_several_characters_looks_for_each_pair_of_them() -> None:
    assert words_sought("東京都") == ["東京", "京都"]
    assert words_sought("東") == ["東"]
    assert words("東京都") == ["東京", "京都", "都"]
    assert with_characters(words("東京a ab")) == ["東京", "京", "a", "ab", "東", "京"]


characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(characters, characters, characters)
def test_any_space_separated_part_of_a_text_is_found_in_it(before: str, text: str, after: str) -> None:
    whole = f"{before} {text} {after}"
    assert begin(words_sought(text), words(whole))
    assert {*words_sought(text)} <= {*with_characters(words(whole))}
