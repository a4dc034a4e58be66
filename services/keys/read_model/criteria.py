"""Which keys a list has, and in which order. Pure."""

from functools import cached_property
from typing import Literal, TypeAlias, get_args

import msgspec

from services.keys.model.key import Key, Status
from services.keys.read_model.words import begin, words, words_sought

Sort: TypeAlias = Literal["-created_at", "created_at", "name", "-name", "hint", "-hint", "status", "-status"]
NEWEST_FIRST: Sort = "-created_at"
SORTS: tuple[Sort, ...] = get_args(Sort)


class Criteria(msgspec.Struct, frozen=True, dict=True):
    """What is asked of a list; by default all keys, newest first."""

    search: str = ""  # the beginnings of words of the name, or a whole id
    status: Status | None = None
    sort: Sort = NEWEST_FIRST

    @cached_property
    def sought(self) -> list[str]:
        """The words that the name must have, or begin with."""
        return words_sought(self.search)

    @property
    def column(self) -> str:
        """By what the list is sorted."""
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        """Whether it is turned round."""
        return self.sort.startswith("-")

    @property
    def id(self) -> str:
        """What the id has to be, if the search is for one."""
        return self.search.strip()

    def match(self, key: Key, now: int) -> bool:
        """Whether a key is in the list at a time in ms.

        What has neither a letter nor a digit is in no name: it finds nothing.
        """
        if self.status is not None and key.status(now) != self.status:
            return False
        if not self.id or key.id == self.id:
            return True
        return bool(self.sought) and begin(self.sought, words(key.name))


ALL = Criteria()
