"""Which keys a list has, and in which order. Pure."""

from typing import Literal, NamedTuple, TypeAlias

from services.keys.domain import Key, Status

Sort: TypeAlias = Literal["-created_at", "created_at"]
NEWEST_FIRST: Sort = "-created_at"
OLDEST_FIRST: Sort = "created_at"


class Criteria(NamedTuple):
    """What is asked of a list; by default all keys, newest first."""

    search: str = ""  # a part of the name, the description, the hint or the id, in any case
    status: Status | None = None
    sort: Sort = NEWEST_FIRST

    @property
    def selects(self) -> bool:
        """Whether some keys may be left out."""
        return bool(self.search or self.status)

    def match(self, key: Key, now: int) -> bool:
        """Whether a key is in the list at a time in ms."""
        if self.status is not None and key.status(now) != self.status:
            return False
        sought = self.search.casefold()
        return not sought or any(
            sought in text.casefold() for text in (key.name, key.description, key.hint, key.id)
        )


ALL = Criteria()
