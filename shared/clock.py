"""The clock, and times as users and other programs write them.

Inside Keyledger, a time is milliseconds since 1970 in UTC. Rules never read the clock: they take the time as
an argument.

What can be printed are the years 1 to 9999 in UTC. `parse_rfc3339` accepts nothing else; an event that was
stored or imported before may hold any integer, so the functions that print are total.
"""

import re
import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
FIRST_TIME = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MS  # 0001-01-01T00:00:00.000Z
LAST_TIME = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MS  # 9999-12-31T23:59:59.999Z

_TYPED = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2})(:[0-9]{2}(?:\.[0-9]+)?)?")
# With or without seconds. `fromisoformat` alone also reads week dates and times without minutes, and not the
# same in every Python.
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_EXPECTED = "It must be a time like 2026-11-23T18:59:21.123Z."


def now_ms() -> int:
    """Returns the current time in ms since 1970."""
    return time.time_ns() // 1_000_000


def printable_time(at: int) -> int:
    """The time, or the nearest one that can be formatted."""
    return min(max(at, FIRST_TIME), LAST_TIME)


def rfc3339(at: int) -> str:
    """RFC 3339 in UTC with milliseconds and `Z`: `2026-11-23T18:59:21.123Z`.

    A time outside the years 1 to 9999 is written as the nearest one within them.
    """
    return (_EPOCH + printable_time(at) * _MS).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> int:
    """The inverse, with any offset, but not without one.

    Raises ValueError for anything else, and for a time that is outside the years 1 to 9999 once it is in UTC.
    """
    if not _RFC3339.fullmatch(str(text)):  # JSON may have a number there
        raise ValueError(_EXPECTED)
    try:
        at = (datetime.fromisoformat(text.upper()) - _EPOCH) // _MS
    except ValueError as error:
        raise ValueError(_EXPECTED) from error
    if at != printable_time(at):
        raise ValueError("It must be a time from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999Z.")
    return at


def typed_in_utc(text: str) -> str:
    """RFC 3339 for the value of an HTML `datetime-local` field, often without seconds: `2026-11-23T18:59`.

    Any other text stays as it is.
    """
    typed = _TYPED.fullmatch(text)
    return f"{typed[1]}{typed[2] or ':00'}Z" if typed else text


def date_utc(at: int) -> str:
    """A readable time: `23 Nov 2026, 18:59 UTC`. Formats every time, as `rfc3339` does."""
    return f"{_EPOCH + printable_time(at) * _MS:%d %b %Y, %H:%M} UTC".lstrip("0")
