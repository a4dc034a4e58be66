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
    return "".join(character if _is_of_word(character) else " " for character in folded).split()


def begin(sought: Iterable[str], found: Iterable[str]) -> bool:
    """Whether each of the words that are sought is the beginning of one that is found."""
    return all(any(word.startswith(beginning) for word in found) for beginning in sought)


def _is_of_word(character: str) -> bool:
    kind = category(character)
    return kind[0] in "LMN" or kind in {"So", "Cn"}  # what Unicode does not know yet may become a letter
