import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import FIRST_TIME, LAST_TIME, date_utc, parse_rfc3339, rfc3339
from shared.eventstore.cloudevents import line_of, record_of
from shared.eventstore.envelope import Record

ENDS = {"0001-01-01T00:00:00.000Z": FIRST_TIME, "9999-12-31T23:59:59.999Z": LAST_TIME}


@pytest.mark.parametrize(("text", "at"), ENDS.items())
def test_the_first_and_last_times_of_the_calendar_are_parsed_and_printed(text: str, at: int) -> None:
    assert (parse_rfc3339(text), rfc3339(at)) == (at, text)


@given(st.integers(FIRST_TIME, LAST_TIME))
def test_a_printed_time_is_parsed_back_to_the_same_time(at: int) -> None:
    assert parse_rfc3339(rfc3339(at)) == at
    assert date_utc(at).endswith(" UTC")


@given(st.integers() | st.sampled_from([10**30, -(10**30), 2**63, 10**4300]))
def test_any_integer_is_printed_as_a_time_that_can_be_parsed(at: int) -> None:
    assert FIRST_TIME <= parse_rfc3339(rfc3339(at)) <= LAST_TIME
    assert date_utc(at).endswith(" UTC")


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-00:01", "9999-12-31T00:01:00-23:59", "0001-01-01T00:00:00+00:01"]
)
def test_a_time_whose_offset_moves_it_out_of_the_calendar_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="from 0001-01-01T00:00:00Z to 9999-12-31"):
        parse_rfc3339(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-11-23T18:59:21",
        "10000-01-01T00:00:00Z",
        "2026-13-01Z",
        "2026-W48-1T00:00:00Z",
        "20261130T202000Z",
        "2026-11-30T20Z",
        "2026-11-30T20:20:00+0000",
        "2026-11-30T20:20:00+00",
        "2026-11-30T20:20:00,5Z",
        "2026-11-30x20:20:00Z",
        "2026-11-30T24:00:00Z",
        "2026-11-30T20:20:00Z\n",
        "２０２６-11-30T20:20:00Z",
        None,
        20261130,
    ],
)
def test_text_that_is_not_a_time_with_an_offset_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="a time like"):
        parse_rfc3339(text)


def test_the_t_and_z_of_a_time_may_be_lower_case() -> None:
    assert parse_rfc3339("2026-11-23t18:59:21.123z") == parse_rfc3339("2026-11-23T18:59:21.123Z")


@pytest.mark.parametrize("at", [FIRST_TIME - 1, LAST_TIME + 60_000, 2**53])
@pytest.mark.parametrize("body", [b"{}", b"not JSON"])
def test_an_event_with_an_unprintable_time_is_exported_and_imported_unchanged(at: int, body: bytes) -> None:
    record = Record(7, at, body)
    line = line_of(record)
    assert record_of(line) == record
    assert parse_rfc3339(json.loads(line)["time"]) in ENDS.values()


def test_an_export_with_a_time_outside_the_calendar_is_rejected() -> None:
    line = line_of(Record(1, LAST_TIME, b"{}"))
    with pytest.raises(ValueError, match="9999-12-31"):
        record_of(line.replace(b"23:59:59.999Z", b"23:59:59-00:01"))
