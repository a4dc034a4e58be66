"""Splits text into words for searching keys and audit entries. Pure.

A word is as many letters and digits as there are in a row, or a picture: `data-sync` is two, and so is
`🔑prod`. Case, accents and forms of the same character make no difference: `jose` finds José, and `strasse`
finds Straße. Scripts without blanks between words are taken apart into pairs of characters, so a search finds
them anywhere in a text.
"""

import re
from collections.abc import Iterable
from unicodedata import category, normalize

_ASCII_WORD = re.compile(r"[0-9a-z]+")
# Scripts that put no blanks between words, or join other parts to them.
_UNSPACED = (
    "\u0e00-\u0fff"  # Thai, Lao, Tibetan
    "\u1000-\u109f\u1100-\u11ff"  # Myanmar, the parts of Hangul
    "\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f"  # Khmer, Tai, Balinese
    "\u3005-\u3007\u3021-\u3035\u303b-\u30ff\u3100-\u312f\u31a0-\u31ff"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\ua980-\ua9ff\uaa60-\uaadf"  # Javanese, more of Myanmar, Tai Viet
    "\uac00-\ud7ff"  # Hangul
    "\U0001b000-\U0001b16f"  # older kana
)
_PIECE = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED} ]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
# Letters with a stroke, a hook or another letter in them, which have no accent to be taken from them.
_PLAIN = {
    "ı": "i", "ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th",
    "ŋ": "n", "ƒ": "f", "ɓ": "b", "ɗ": "d", "ƙ": "k", "ə": "e", "ـ": "",
}  # fmt: skip
# Marks that a reader may leave out. Those of other scripts make another letter, or are its vowel.
_ACCENTS = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u1ab0-\u1aff"
    "\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef]"
)


def words(text: str) -> list[str]:
    """The words of a text, in order, as an index has them.

    Of a script without blanks: each character with the next one, and the last one alone.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = []
    for piece in _PIECE.findall(_folded(text)):
        found += [*_pairs(piece), piece[-1]] if _IS_UNSPACED.match(piece) else [piece]
    return found


def words_sought(text: str) -> list[str]:
    """The words that a text must have to be found by this one; each may be the beginning of a word there."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = []
    for piece in _PIECE.findall(_folded(text)):
        found += (_pairs(piece) if _IS_UNSPACED.match(piece) else []) or [piece]
    return found


def with_characters(found: Iterable[str]) -> list[str]:
    """Words as an index has them, and the characters that they begin with in scripts without blanks.

    For an index that finds whole words only.
    """
    found = [*found]
    return [*found, *(word[0] for word in found if _IS_UNSPACED.match(word))]


def begin(sought: Iterable[str], found: Iterable[str]) -> bool:
    """Whether each search word is the beginning of one of the found words."""
    return all(any(word.startswith(beginning) for word in found) for beginning in sought)


def _folded(text: str) -> str:
    """The text without case, accents and other forms of the same characters, and blanks between its words."""
    decomposed = normalize("NFKD", normalize("NFKD", text).casefold())
    return normalize("NFC", decomposed.translate(_FOLDED))


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]


class _Folded(dict[int, str]):
    """What stands for each character that was met: itself in a word, and a blank between words."""

    def __missing__(self, code: int) -> str:
        self[code] = _fold(chr(code))
        return self[code]


def _fold(character: str) -> str:
    kind = category(character)
    if character in _PLAIN:
        return _PLAIN[character]
    if kind == "Cf" or (kind == "Mn" and _ACCENTS.match(character)):
        return ""
    if kind == "So":
        return f" {character} "
    # What Unicode does not know yet may become a letter.
    return character if kind[0] in "LMN" or kind == "Cn" else " "


_FOLDED = _Folded()
