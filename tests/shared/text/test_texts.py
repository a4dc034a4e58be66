import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.text.characters import escaped, is_visible, refused_character, trimmed
from shared.web.schemas import Text

# Invisible characters, by what they do.
HIDDEN = {
    "right-to-left override": "\u202e",
    "left-to-right embedding": "\u202a",
    "right-to-left isolate": "\u2067",
    "pop of an isolate": "\u2069",
    "right-to-left mark": "\u200f",
    "arabic letter mark": "\u061c",
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "zero-width non-joiner": "\u200c",
    "byte order mark": "\ufeff",
    "word joiner": "\u2060",
    "soft hyphen": "\u00ad",
    "invisible separator": "\u2063",
    "grapheme joiner": "\u034f",
    "hangul filler": "\u3164",
    "hangul choseong filler": "\u115f",
    "half-width filler": "\uffa0",
    "khmer inherent vowel": "\u17b4",
    "mongolian vowel separator": "\u180e",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "tag": "\U000e0061",
    "language tag": "\U000e0001",
    "variation selector": "\ufe0f",
    "ideographic variation selector": "\U000e0101",
    "interlinear annotation": "\ufff9",
    "private use": "\ue000",
    "noncharacter": "\uffff",
    "shorthand format": "\U0001bca0",
    "musical format": "\U0001d173",
    "escape": "\x1b",
    "null": "\x00",
    "c1 control": "\x9b",
}
VISIBLE = [
    "Data Sync Script",
    "Straße & Söhne",
    "日本語のキー",
    "مفتاح الخدمة",
    "می\u200cخواهم",  # Persian, with the joiner that its spelling needs
    "क्\u200dष",  # Devanagari: a half form
    "מפתח",
    "ключ",
    "👩\u200d💻 laptops",
    "👩🏽\u200d🚒",
    "🏳\ufe0f\u200d🌈",
    "❤\ufe0f",
    "1\ufe0f\u20e3 first",
    "葛\U000e0100城",
    "e\u0301te\u0301",
    "⠓⠑⠇⠇⠕",
    "–",
]


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("around", ["{}", "a{}", "{}a", "own{}er@localhost", "a {} b"])
def test_an_invisible_character_is_rejected_and_shown_as_an_escape(hidden: str, around: str) -> None:
    text = around.format(HIDDEN[hidden])
    assert refused_character(text) == HIDDEN[hidden]
    assert refused_character(escaped(text)) is None
    assert "\\" in escaped(text)


@pytest.mark.parametrize("text", VISIBLE)
def test_text_in_any_script_and_emoji_are_accepted_and_shown_unchanged(text: str) -> None:
    assert refused_character(text) is None
    assert is_visible(text)
    assert escaped(text) == text


@pytest.mark.parametrize(
    "text", ["", " ", "\u2800", "\u3164", "\u0301", "\u00a0\u2003", "\U0001d159", "\ufe0f"]
)
def test_text_that_consists_only_of_blank_characters_is_not_visible(text: str) -> None:
    assert not is_visible(text)


@pytest.mark.parametrize("text", ["ci  bot", "ci bot\u2800", "\u2800 ci\u00a0bot", "ci\u2003\u2800bot\n"])
def test_texts_that_differ_only_in_whitespace_are_trimmed_to_the_same_text(text: str) -> None:
    assert trimmed(text) == "ci bot"
    assert Text().deserialize(text) == "ci bot"


def test_lines_keep_their_indentation() -> None:
    assert trimmed("\n1.  a\n    b \u2800", lines=True) == "1.  a\n    b"
    assert trimmed("\u2800") == ""


def test_line_feeds_are_accepted_only_in_multi_line_text() -> None:
    assert refused_character("a\n\tb") == "\n"
    assert refused_character("a\n\tb", lines=True) is None
    assert refused_character("a\rb", lines=True) == "\r"
    assert escaped("a\n\tb") == "a\n\tb"


@given(st.text())
def test_any_text_can_be_escaped_to_visible_characters(text: str) -> None:
    shown = escaped(text)
    assert refused_character(shown.replace("\r", ""), lines=True) is None
