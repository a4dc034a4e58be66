"""The chart of a key's use per day."""

from services.keys.verification.usage import Day, Used
from services.keys.verification.usage_chart import DAYS, Bar, chart

NOW = 1_795_478_400_000  # 2026-11-24T00:00:00Z


def test_the_chart_has_a_bar_for_each_day_with_accepted_and_refused_counts() -> None:
    used = Used(
        7, [Day("2026-11-24", {"DISABLED": 2, "EXPIRED": 1, "VALID": 4}), Day("2026-10-26", {"VALID": 9})]
    )
    drawn = chart(used, NOW)
    assert len(drawn.bars) == DAYS
    assert [bar.date for bar in drawn.bars] == sorted({bar.date for bar in drawn.bars})
    assert drawn.bars[0] == Bar("2026-10-26", 9, 0, {})
    assert drawn.bars[-1] == Bar("2026-11-24", 4, 3, {"DISABLED": 2, "EXPIRED": 1})
    assert drawn.busy == [drawn.bars[-1], drawn.bars[0]]
    assert (drawn.accepted, drawn.refused, drawn.most, drawn.last_used_at) == (13, 3, 9, 7)


def test_a_day_ends_at_midnight_utc() -> None:
    assert chart(Used(None, []), NOW - 1).bars[-1].date == "2026-11-23"


def test_an_unused_key_has_no_busy_days() -> None:
    assert chart(Used(None, []), NOW).busy == []
