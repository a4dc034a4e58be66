"""The usage of a key by day, as a chart and as text."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from services.keys.verification.usage import Day, Used

DAYS = 30
_ACCEPTED = "VALID"


class Bar(NamedTuple):
    """One day: how often the key was accepted and refused, and the reasons."""

    date: str
    accepted: int
    refused: int
    reasons: dict[str, int]


class Chart(NamedTuple):
    """The last days, oldest first."""

    bars: list[Bar]
    last_used_at: int | None

    @property
    def accepted(self) -> int:
        """How often in all."""
        return sum(bar.accepted for bar in self.bars)

    @property
    def refused(self) -> int:
        """How often in all."""
        return sum(bar.refused for bar in self.bars)

    @property
    def most(self) -> int:
        """The height of the highest bar."""
        return max(bar.accepted + bar.refused for bar in self.bars)

    @property
    def busy(self) -> list[Bar]:
        """The days on which the key was used, newest first."""
        return [bar for bar in reversed(self.bars) if bar.accepted or bar.refused]


def chart(used: Used, now: int) -> Chart:
    """The days up to `now`, in ms, in UTC. Includes days without counts."""
    counted = {day.date: day for day in used.days}
    today = datetime.fromtimestamp(now / 1000, UTC).date()
    dates = [(today - timedelta(days=back)).isoformat() for back in reversed(range(DAYS))]
    return Chart([_bar(counted.get(date, Day(date, {}))) for date in dates], used.last_used_at)


def _bar(day: Day) -> Bar:
    reasons = {code: count for code, count in day.counts.items() if code != _ACCEPTED}
    return Bar(day.date, day.counts.get(_ACCEPTED, 0), sum(reasons.values()), reasons)
