"""How much happened when: entries counted by stretches of time. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

_MOST = 60  # stretches
_SECOND = 1_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WIDTHS = (
    *(n * _SECOND for n in (1, 5, 15, 30)),
    *(n * _MINUTE for n in (1, 5, 15, 30)),
    *(n * _HOUR for n in (1, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 7, 14, 28)),
)


class Stretch(NamedTuple):
    """From a time on and before another, in ms since 1970, and how many entries are in it."""

    since: int
    until: int
    entries: int


class Activity(NamedTuple):
    """Stretches of the same length that follow each other, oldest first."""

    stretches: list[Stretch]

    @property
    def most(self) -> int:
        """Of the busiest."""
        return max(stretch.entries for stretch in self.stretches)

    @property
    def total(self) -> int:
        """Of all."""
        return sum(stretch.entries for stretch in self.stretches)

    @property
    def width(self) -> int:
        """Of each, in ms."""
        return self.stretches[0].until - self.stretches[0].since


def edges(first: int, last: int) -> range:
    """Where stretches begin and end that hold two times and all between: as short as a chart can show.

    Each begins at a full second, minute, hour or day in UTC.
    """
    width = next((each for each in _WIDTHS if _begin(last, each) - _begin(first, each) < _MOST * each), None)
    if width is None:
        years = (last - first) // (_MOST * _WIDTHS[-1]) + 2
        width = years * _WIDTHS[-1]
    return range(_begin(first, width), _begin(last, width) + width + 1, width)


def activity(of: range, counts: Sequence[int]) -> Activity:
    """The stretches between edges, with how many entries each has."""
    return Activity(
        [Stretch(since, since + of.step, count) for since, count in zip(of[:-1], counts, strict=True)]
    )


def _begin(at: int, width: int) -> int:
    return at // width * width
