"""Where the keys of a list come from: each source gives members of the index in order, some at a time.

Each member ends with the place of its key. A mark is the member behind which to go on; the empty one is
before all.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Protocol, cast

from redis import Redis

from services.keys.read_model.index import place_of


class Some(NamedTuple):
    """Some members in order, and where their reading ended; None at the end of all."""

    members: list[bytes]
    reached: bytes | None


class Source(Protocol):
    """Members in an order."""

    def after(self, mark: bytes, number: int) -> Some:
        """What is in the next so many places behind a mark."""


@dataclass(frozen=True)
class InOrder:
    """Sets of the index in lexical order, as if they were one; only the places in `only`, if it is given."""

    store: Redis
    names: Sequence[str]
    descending: bool
    only: Container[bytes] | None = None

    def after(self, mark: bytes, number: int) -> Some:
        first, last = (b"+", b"-") if self.descending else (b"-", b"+")
        start = b"(" + mark if mark else first
        # In one step, for a key that is switched meanwhile goes from one set to another.
        with cast("Any", self.store.pipeline(transaction=len(self.names) > 1)) as pipe:
            read = pipe.zrevrangebylex if self.descending else pipe.zrangebylex
            for name in self.names:
                read(name, start, last, 0, number)
            found: list[list[bytes]] = pipe.execute()
        members = found[0]
        if len(found) > 1:
            members = sorted(chain.from_iterable(found), reverse=self.descending)[:number]
        reached, only = members[-1] if len(members) == number else None, self.only
        if only is not None:
            members = [member for member in members if place_of(member) in only]
        return Some(members, reached)


@dataclass(frozen=True)
class Gathered:
    """Members that were found before, in ascending order."""

    found: Sequence[bytes]
    descending: bool

    def after(self, mark: bytes, number: int) -> Some:
        found = self.found
        if self.descending:
            stop = bisect_left(found, mark) if mark else len(found)
            members = list(found[max(stop - number, 0) : stop])[::-1]
        else:
            start = bisect_right(found, mark)
            members = list(found[start : start + number])
        return Some(members, members[-1] if len(members) == number else None)
