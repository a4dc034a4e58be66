"""The mapping between the ledger and CloudEvents, and which files are rejected."""

import hashlib
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.clock import rfc3339
from shared.eventstore.cloudevents import ExportError, line_of, lines, record_of, records
from shared.eventstore.codec import encode
from shared.eventstore.envelope import Actor, NewEvent, Record, Request
from shared.text.sealed_jsonl import DamagedFileError

FIXTURES = Path(__file__).parent / "fixtures"
LAST_MS = 253_402_300_799_999  # of the year 9999
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ENVELOPES = st.builds(
    NewEvent,
    id=TEXT,
    type=TEXT | st.sampled_from(["KeyCreated", "keyledger.stored-event", "keyledger.export.trailer"]),
    schema=st.integers(-(2**40), 2**40),
    subject=TEXT,
    version=st.integers(0, 2**40),
    workspace=TEXT,
    actor=st.builds(Actor, kind=st.sampled_from(["account", "key", "operator"]), id=TEXT, label=TEXT),
    request=st.builds(Request, id=TEXT, ip=st.none() | TEXT, user_agent=st.none() | TEXT),
    data=JSON,
)
BODIES = ENVELOPES.map(encode) | st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode())


def toggled(position: int, at: int = 1_795_460_361_123, **changes: object) -> Record:
    stored = json.loads((FIXTURES / "key_toggled_schema_1_with_reason.json").read_bytes())
    stored |= {"id": f"event-{position}", "version": position} | changes
    body = json.dumps(stored, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    return Record(position, at + position, body)


def file_of(*events: Record) -> list[bytes]:
    return list(lines(events))


@given(st.integers(1, 10**16 - 1), st.integers(0, LAST_MS), BODIES)
def test_every_event_round_trips_byte_for_byte_through_one_line_of_json(
    position: int, at: int, body: bytes
) -> None:
    record = Record(position, at, body)
    line = line_of(record)
    assert record_of(line) == record
    assert line.count(b"\n") == 1
    said = json.loads(line)
    assert said["specversion"] == "1.0"
    assert said["time"] == rfc3339(at)
    assert int(said["sequence"]) == position
    for name in said.keys() - {"data", "data_base64"}:
        assert name.isalnum()
        assert name == name.lower()


def test_a_cloudevent_has_the_fields_of_the_events_envelope() -> None:
    assert json.loads(line_of(toggled(7))) == {
        "specversion": "1.0",
        "source": "urn:keyledger:ledger",
        "type": "KeyToggled",
        "id": "event-7",
        "sequence": "0000000000000007",
        "time": "2026-11-23T18:59:21.130Z",
        "subject": "key:00abcdefghij",
        "version": 7,
        "schema": 1,
        "workspace": "default",
        "actorkind": "account",
        "actorid": "account:ann@example.org",
        "actorlabel": "ann@example.org",
        "requestid": "5f0c7f6ce1d44be3",
        "requestip": "192.0.2.7",
        "requestagent": "Mozilla/5.0",
        "datacontenttype": "application/json",
        "data": {"enabled": False, "reason": "leaked"},
    }


def test_an_event_of_an_unknown_type_is_exported_like_any_other() -> None:
    said = json.loads(line_of(toggled(1, type="KeyTeleported", schema=9, data={"to": ["Mars"]})))
    assert (said["type"], said["schema"], said["data"]) == ("KeyTeleported", 9, {"to": ["Mars"]})


@pytest.mark.parametrize(
    "record",
    [
        Record(1, 5, b"no JSON"),
        Record(1, 5, b""),
        Record(1, 5, b'{"id":"\xff"}'),
        Record(1, 5, b"[" * 50_000),
        Record(1, 5, json.dumps(json.loads(toggled(1).body), indent=1).encode()),
        toggled(1, colour="blue"),
        toggled(1, type="keyledger.export.trailer"),
        toggled(1, subject="key:\x00"),
        toggled(1, version=2**31),
        toggled(1, data={"bad": "\x00"})._replace(
            body=toggled(1).body.replace(b'"reason":"leaked"', b'"reason":"\xff"')
        ),
    ],
)
def test_an_event_that_cloudevents_cannot_represent_is_exported_as_stored(record: Record) -> None:
    line = line_of(record)
    said = json.loads(line)
    assert (said["type"], said["id"]) == ("keyledger.stored-event", "position-1")
    assert record_of(line) == record


@pytest.mark.parametrize("at", [10**16, -(10**16), 10**30])
@pytest.mark.parametrize("body", [toggled(1).body, b"no JSON"])
def test_an_event_with_any_stored_time_round_trips(body: bytes, at: int) -> None:
    record = Record(1, at, body)
    assert [*records(file_of(record))] == [record]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_export_ends_with_a_trailer_of_count_position_and_digest(count: int) -> None:
    events = [toggled(position) for position in range(1, count + 1)]
    *before, last = file_of(*events)
    trailer = json.loads(last)
    sha256 = hashlib.sha256(b"".join(before)).hexdigest()
    assert trailer["type"] == "keyledger.export.trailer"
    assert trailer["data"] == {"count": count, "last_position": count, "sha256": sha256}
    assert list(records([*before, last])) == events


def test_a_ledger_with_a_gap_is_not_exported() -> None:
    with pytest.raises(ExportError, match="no event at position 2"):
        file_of(toggled(1), toggled(3))


FOUR = file_of(*(toggled(position) for position in range(1, 5)))
OTHER = file_of(*(toggled(position, workspace="other") for position in range(1, 5)))


def sealed(*events: bytes) -> list[bytes]:
    """Lines with a trailer whose digest matches them."""
    right, wrong = (hashlib.sha256(b"".join(file)).hexdigest().encode() for file in (events, FOUR[:4]))
    return [*events, FOUR[4].replace(wrong, right)]


DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "empty": lambda file: file[:0],
    "without its trailer": lambda file: file[:-1],
    "without its last line feed": lambda file: [*file[:-1], file[-1][:-1]],
    "cut in a line": lambda file: [*file[:2], file[2][:40]],
    "an event left out": lambda file: file[:1] + file[2:],
    "the last event left out": lambda file: file[:3] + file[4:],
    "two events swapped": lambda file: [file[0], file[2], file[1], *file[3:]],
    "two events swapped under a digest that fits": lambda file: sealed(file[0], file[2], file[1], file[3]),
    "a wrong count under a digest that fits": lambda file: sealed(*file[:3]),
    "an event twice": lambda file: [*file[:2], file[1], *file[2:]],
    "the file twice": lambda file: file + file,
    "an event more": lambda file: [*file[:4], line_of(toggled(5)), file[4]],
    "an event after the trailer": lambda file: [*file, line_of(toggled(5))],
    "a blank line at the end": lambda file: [*file, b"\n"],
    "a blank line": lambda file: [*file[:1], b"\n", *file[1:]],
    "an event of another ledger": lambda file: [*file[:2], OTHER[2], *file[3:]],
    "another ledger's trailer": lambda file: [*file[:4], OTHER[4]],
    "a line that is no event": lambda file: [*file[:2], b"{}\n", *file[3:]],
    "bytes that are no text": lambda file: [*file[:2], b'{"type":"\xff"}\n', *file[3:]],
    "an attribute more": lambda file: [file[0].replace(b'{"', b'{"more":1,"', 1), *file[1:]],
    "no line feeds": lambda file: [b"".join(file).replace(b"\n", b" ")],
    "other line ends": lambda file: [line.replace(b"\n", b"\r\n") for line in file],
    "a mark at the beginning": lambda file: [b"\xef\xbb\xbf" + file[0], *file[1:]],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_export_is_rejected(damage: str) -> None:
    with pytest.raises(DamagedFileError):
        list(records(DAMAGE[damage](FOUR)))


def test_every_flipped_bit_and_every_truncation_is_rejected() -> None:
    whole = b"".join(FOUR)
    for index in range(len(whole)):
        flipped = bytearray(whole)
        flipped[index] ^= 1 << index % 8
        for damaged in (bytes(flipped), whole[:index]):
            with pytest.raises(DamagedFileError):
                list(records(BytesIO(damaged)))
