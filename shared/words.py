"""The words of a text, by which keys and audit entries are searched. Pure."""

import re
from collections.abc import Iterable
from unicodedata import category, normalize

_ASCII_WORD = re.compile(r"[0-9a-z]+")


def words(text: str) -> list[str]:
    """The words of a text without regard to case, however it composes its characters.

    A word is as many letters, marks, digits and pictures as there are in a row: `data-sync` is two of them.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = normalize("NFC", normalize("NFD", text).casefold())
    return folded.translate(_PARTED).split()


def begin(sought: Iterable[str], found: Iterable[str]) -> bool:
    """Whether each of the words that are sought is the beginning of one that is found."""
    return all(any(word.startswith(beginning) for word in found) for beginning in sought)


class _Parted(dict[int, str]):
    """What stands for each character that was met: itself in a word, and a blank between words."""

    def __missing__(self, code: int) -> str:
        kind = category(chr(code))
        # What Unicode does not know yet may become a letter.
        self[code] = chr(code) if kind[0] in "LMN" or kind in {"So", "Cn"} else " "
        return self[code]


_PARTED = _Parted()
