"""Checkpoints: their text, when one is due, and the contents of the next one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.integrity.checkpoint import (
    DUE_ENTRIES,
    DUE_MS,
    NO_CHECKPOINT,
    SignedCheckpoint,
    due,
    following,
    note_hash,
    of_text,
)
from services.audit.integrity.signed_note import NoteError
from tests.support.histories import AT

LAST = SignedCheckpoint(3, b"\x01" * 32, 100, b"\x02" * 32, AT)
TEXT = (
    "keyledger audit checkpoint v1\n"
    "sequence 3\n"
    f"previous {'01' * 32}\n"
    "position 100\n"
    "count 100\n"
    f"chain_hash {'02' * 32}\n"
    "time 2026-11-23T18:59:21.123Z\n"
)


def test_a_checkpoint_is_written_and_parsed_as_text() -> None:
    assert LAST.text == TEXT
    assert of_text(TEXT) == LAST


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("v1", "v2"),
        ("sequence 3", "sequence 03"),
        ("sequence 3", "sequence -3"),
        ("sequence 3", "sequence ٣"),
        ("position 100", "position 101"),
        ("count 100", "count 99"),
        ("count 100\n", ""),
        ("count 100\n", "count 100\ncount 100\n"),
        ("01" * 32, "01" * 31),
        ("02" * 32, "0A" * 32),
        (".123Z", ".123+00:00"),
        (".123Z", ".12Z"),
        ("2026-11-23", "2026-13-23"),
        ("2026-11-23T", "2026-11-23 "),
        ("123Z\n", "123Z"),
        ("123Z\n", "123Z\nmore\n"),
    ],
)
def test_malformed_checkpoint_text_is_rejected(what: str, instead: str) -> None:
    assert what in TEXT
    with pytest.raises(NoteError):
        of_text(TEXT.replace(what, instead))


_HASHES = st.binary(min_size=32, max_size=32)
_NUMBERS = st.integers(0, 10**17)


@given(st.builds(SignedCheckpoint, _NUMBERS, _HASHES, _NUMBERS, _HASHES, st.integers(0, 2**47)))
def test_every_checkpoint_round_trips_through_its_text(checkpoint: SignedCheckpoint) -> None:
    assert of_text(checkpoint.text) == checkpoint


@pytest.mark.parametrize(
    ("position", "last", "now", "expected"),
    [
        (0, None, AT, False),
        (1, None, AT, True),
        (100, LAST, AT + 10**9, False),  # nothing new
        (101, LAST, AT + DUE_MS - 1, False),
        (101, LAST, AT + DUE_MS, True),
        (100 + DUE_ENTRIES - 1, LAST, AT, False),
        (100 + DUE_ENTRIES, LAST, AT, True),
        (100 + DUE_ENTRIES, LAST, AT - 10**9, True),
        (99, LAST, AT + 10**9, False),  # the log's end is gone
    ],
)
def test_a_checkpoint_is_due_after_enough_entries_or_time(
    position: int, last: SignedCheckpoint | None, now: int, *, expected: bool
) -> None:
    assert due(position, last, now) is expected


def test_the_first_checkpoint_has_no_predecessor() -> None:
    assert following(5, b"\x05" * 32, None, None, AT) == SignedCheckpoint(
        1, NO_CHECKPOINT, 5, b"\x05" * 32, AT
    )


def test_the_next_checkpoint_links_the_previous_note_and_never_goes_back_in_time() -> None:
    expected = SignedCheckpoint(4, note_hash(b"note"), 105, b"\x05" * 32, AT)
    assert following(105, b"\x05" * 32, LAST, b"note", AT - 60_000) == expected
    assert following(105, b"\x05" * 32, LAST, b"note", AT + 1).time == AT + 1
