"""Points in time in the past, as callers of any service write them. Pure."""

from typing import NamedTuple, TypeAlias

from shared.clock import parse_rfc3339

_POSITION_DIGITS = 15  # more than any ledger needs, and still an integer wherever it is read


class Time(NamedTuple):
    """A time of the clock, in ms since 1970. It includes what happened in that ms."""

    at: int


class Position(NamedTuple):
    """A position of the ledger: right after the event there, whatever its subject."""

    position: int


PointInTime: TypeAlias = Time | Position


class PointInTimeError(ValueError):
    """The text isn't a point in time. The message says what is valid."""


def parse_point_in_time(text: str) -> PointInTime:
    """A time, or a position in digits. Raises PointInTimeError."""
    if text.isascii() and text.isdecimal() and 0 < int(text[: _POSITION_DIGITS + 1]) < 10**_POSITION_DIGITS:
        return Position(int(text))
    try:
        return Time(parse_rfc3339(text))
    except ValueError as error:
        raise PointInTimeError(f"{error} Or a position of the ledger, like 17.") from error
