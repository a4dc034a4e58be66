"""The words of a name, no more of them than an index has room for."""

import shared.text.words
from shared.text.words import begin as begin

_MAX_INDEXED = 100  # a name has up to 100 characters; each may begin a word in a script without blanks
_MAX_SOUGHT = 64


def words(name: str) -> list[str]:
    """The words of a name, in order."""
    return shared.text.words.words(name)[:_MAX_INDEXED]


def words_sought(search: str) -> list[str]:
    """The words that a name must have to be found by a search."""
    return list(dict.fromkeys(shared.text.words.words_sought(search)))[:_MAX_SOUGHT]
