"""Times as people and other programs write them; inside, a time is milliseconds since 1970 in UTC."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def rfc3339(at: int) -> str:
    """RFC 3339 in UTC with milliseconds and `Z`: `2026-11-23T18:59:21.123Z`."""
    return (_EPOCH + at * _MS).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> int:
    """The inverse; any offset is taken, none is not. Raises ValueError, which says what is wanted."""
    try:
        # A time without an offset cannot be compared with one that has it: a TypeError.
        return (datetime.fromisoformat(text) - _EPOCH) // _MS
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("It must be a time like 2026-11-23T18:59:21.123Z.") from error


def date_utc(at: int) -> str:
    """What a person reads: `23 Nov 2026, 18:59 UTC`."""
    return f"{_EPOCH + at * _MS:%d %b %Y, %H:%M} UTC".lstrip("0")
