"""Moments of the past, as callers of any service name them. Pure."""

from typing import NamedTuple, TypeAlias

from shared.clock import parse_rfc3339

_POSITION_DIGITS = 15  # more than any ledger needs, and still an integer wherever it is read


class Time(NamedTuple):
    """A moment by the clock, in ms since 1970. What happened in that very ms has happened."""

    at: int


class Position(NamedTuple):
    """A moment by the ledger: right after the event there, whatever that is about."""

    position: int


PointInTime: TypeAlias = Time | Position


class PointInTimeError(ValueError):
    """No moment to look at; the message tells the caller who named it what it may be."""


def parse_point_in_time(text: str) -> PointInTime:
    """A time, or a position in digits. Raises PointInTimeError, which says what is wanted."""
    if text.isascii() and text.isdecimal() and 0 < int(text[: _POSITION_DIGITS + 1]) < 10**_POSITION_DIGITS:
        return Position(int(text))
    try:
        return Time(parse_rfc3339(text))
    except ValueError as error:
        raise PointInTimeError(f"{error} Or a position of the ledger, like 17.") from error
