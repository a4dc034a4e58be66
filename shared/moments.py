"""Moments of the past, as callers of any service name them. Pure."""

from typing import NamedTuple, TypeAlias

from shared.timestamps import parse_rfc3339

_POSITION_DIGITS = 15  # more than any ledger needs, and still an integer wherever it is read


class Time(NamedTuple):
    """A moment by the clock, in ms since 1970. What happened in that very ms has happened."""

    at: int


class Position(NamedTuple):
    """A moment by the ledger: right after the event there, whatever that is about."""

    position: int


Moment: TypeAlias = Time | Position


class MomentError(ValueError):
    """No moment to look at; the message tells the caller who named it what it may be."""


def parse_moment(text: str) -> Moment:
    """A time, or a position in digits. Raises MomentError, which says what is wanted."""
    if text.isascii() and text.isdecimal() and 0 < int(text[: _POSITION_DIGITS + 1]) < 10**_POSITION_DIGITS:
        return Position(int(text))
    try:
        return Time(parse_rfc3339(text))
    except ValueError as error:
        raise MomentError(f"{error} Or a position of the ledger, like 17.") from error
