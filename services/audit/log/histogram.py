"""A histogram of the entries over time. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

_MAX_BARS = 60
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


class Bar(NamedTuple):
    """A time range, in ms since 1970, and the number of entries in it. `until` isn't included."""

    since: int
    until: int
    entries: int


class Activity(NamedTuple):
    """Consecutive bars of the same width, oldest first."""

    bars: list[Bar]

    @property
    def highest(self) -> int:
        """The number of entries in the highest bar."""
        return max(bar.entries for bar in self.bars)

    @property
    def total(self) -> int:
        return sum(bar.entries for bar in self.bars)

    @property
    def width(self) -> int:
        """The width of a bar, in ms."""
        return self.bars[0].until - self.bars[0].since


def edges(first: int, last: int) -> range:
    """The edges of the narrowest bars that cover two times without exceeding the maximum number.

    Each bar starts at a full second, minute, hour or day in UTC.
    """
    width = next(
        (each for each in _WIDTHS if _start(last, each) - _start(first, each) < _MAX_BARS * each), None
    )
    if width is None:
        years = (last - first) // (_MAX_BARS * _WIDTHS[-1]) + 2
        width = years * _WIDTHS[-1]
    return range(_start(first, width), _start(last, width) + width + 1, width)


def activity(of: range, counts: Sequence[int]) -> Activity:
    """The bars between edges, with the number of entries in each."""
    return Activity(
        [Bar(since, since + of.step, count) for since, count in zip(of[:-1], counts, strict=True)]
    )


def _start(at: int, width: int) -> int:
    return at // width * width
