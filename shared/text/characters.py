"""Which characters a readable text may have, and how to display a text that has others. Pure.

What a reader cannot see must neither make two texts look alike nor turn a text around. So the rule is that of
PRECIS (RFC 8264, FreeformClass): no control, format, private-use or default-ignorable characters. Unlike
there, the invisible characters that a script or an emoji needs are allowed where they have an effect.
"""

import re
import unicodedata

_LINE_CHARACTERS = frozenset("\n\t")
_REFUSED_KINDS = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# Default-ignorable letters, marks and code points that no character has yet.
_IGNORABLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2065\u3164\uffa0")
_IGNORABLE_RANGES = (range(0xFFF0, 0xFFF9), range(0xE0000, 0xE1000), range(0xFDD0, 0xFDF0))
# Symbols that are drawn as a space: allowed like one, but nothing to see.
_BLANK_SYMBOLS = frozenset("\u2800\U0001d159")
_SPACES = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u2800\U0001d159]+")

_NON_JOINER, _JOINER = "\u200c", "\u200d"
_VIRAMA = 9  # the combining class of what joiners follow in the scripts of India (RFC 5892, appendix A)
_TEXT_STYLE, _EMOJI_STYLE = "\ufe0e", "\ufe0f"
_KEYCAP = "\u20e3"
_EMOJI_KINDS = frozenset({"So", "Sk", "Sm", "Po", "Pd"})
_VARYING_SCRIPTS = ("CJK", "MYANMAR", "MONGOLIAN")


def refused_character(text: str, *, lines: bool = False) -> str | None:
    """The first character that the text may not have; None if there is none. `lines` allows line feeds."""
    if text.isascii() and text.isprintable():
        return None
    for place, character in enumerate(text):
        if _is_refused(text, place) and not (lines and character in _LINE_CHARACTERS):
            return character
    return None


def invalid_text(text: str, *, lines: bool = False) -> str | None:
    """Why the text is not one for people, as a sentence; None if it is. `lines` allows line feeds."""
    character = refused_character(text, lines=lines)
    if character is not None:
        kind = "control" if unicodedata.category(character) in {"Cc", "Cs"} else "invisible"
        return f"It may not contain the {kind} character U+{ord(character):04X}. Remove it."
    if text and not is_visible(text):
        return "It must contain a visible character. Enter letters, digits or symbols."
    return None


def is_visible(text: str) -> bool:
    """Whether a text has a visible character. A combining mark alone is not visible."""
    return any(
        unicodedata.category(character)[0] in "LNPS" and character not in _IGNORABLE | _BLANK_SYMBOLS
        for character in text
    )


def is_blank(character: str) -> bool:
    """Whether a character is drawn as a space."""
    return character.isspace() or character in _BLANK_SYMBOLS


def trimmed(text: str, *, lines: bool = False) -> str:
    """The text without blanks at its ends and, unless it has `lines`, with each run of blanks as one space.

    So two texts that differ only in blanks, which look alike, are the same (RFC 8266, section 2.1).
    """
    shown = [place for place, character in enumerate(text) if not is_blank(character)]
    text = text[shown[0] : shown[-1] + 1] if shown else ""
    return text if lines else _SPACES.sub(" ", text)


def escaped(text: str) -> str:
    """The text with what it may not have written as `\\u202e`, but for the ends of its lines."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if _is_refused(text, place) and character not in "\n\r\t"
        else character
        for place, character in enumerate(text)
    )


def _is_refused(text: str, place: int) -> bool:
    character = text[place]
    if character in {_NON_JOINER, _JOINER}:
        return not _joins(text, place)
    if _is_variation_selector(character):
        return not _varies(text, place)
    code = ord(character)
    if character in _IGNORABLE or code & 0xFFFE == 0xFFFE or any(code in some for some in _IGNORABLE_RANGES):
        return True
    return unicodedata.category(character) in _REFUSED_KINDS


def _joins(text: str, place: int) -> bool:
    """Whether a joiner has an effect: after a virama, between Arabic letters, or between emoji."""
    before, after = text[:place], text[place + 1 : place + 2]
    last = before[-1:]
    if not last or not after:
        return False
    if unicodedata.combining(last) == _VIRAMA:
        return _is_letter(after)
    if text[place] == _JOINER and _is_emoji(before.removesuffix(_EMOJI_STYLE)[-1:]):
        return _is_emoji(after)
    letter = next((each for each in reversed(before) if not unicodedata.combining(each)), "")
    return all(_is_letter(each) and unicodedata.bidirectional(each) == "AL" for each in (letter, after))


def _is_variation_selector(character: str) -> bool:
    name = unicodedata.name(character, "")
    return "VARIATION SELECTOR" in name and unicodedata.category(character) == "Mn"


def _varies(text: str, place: int) -> bool:
    """Whether a variation selector follows a character that it can change."""
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if text[place] in {_TEXT_STYLE, _EMOJI_STYLE}:
        is_keycap = before in {*"0123456789#*"} and after == _KEYCAP
        return is_keycap or _is_emoji(before)
    return _is_letter(before) and unicodedata.name(before, "").startswith(_VARYING_SCRIPTS)


def _is_letter(character: str) -> bool:
    return character not in {"", *_IGNORABLE} and unicodedata.category(character).startswith("L")


def _is_emoji(character: str) -> bool:
    if not character or character.isascii():
        return False
    return unicodedata.category(character) in _EMOJI_KINDS or character == "\N{INFORMATION SOURCE}"
