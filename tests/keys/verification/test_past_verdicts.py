"""Whether and why a key would have been accepted at a point in time, for each state of a key."""

import pytest
from msgspec.structs import replace

from services.keys.model.point_in_time import past
from services.keys.verification.as_of import verdict_of
from shared.eventstore.envelope import Event
from shared.eventstore.events import KeyDetails, KeyDetailsChanged, KeyRevoked, KeyRotated, KeyToggled
from shared.eventstore.point_in_time import PointInTime, Position, Time
from shared.forensics import PastVerdict
from tests.keys.model.test_key import CREATED, OFF, ON, given

# Created at position 10 and time 1000; each later event comes 10 positions and 1000 ms after the one before.
BORN = replace(CREATED, digest="aa" * 32, scopes=("a", "b"), expires_at=5_500)
DETAILS = KeyDetails(name="Web", description="", scopes=("a", "b"), expires_at=5_500)


def changed(**after: object) -> KeyDetailsChanged:
    return KeyDetailsChanged(before=DETAILS, after=replace(DETAILS, **after), reason="")


def rotated(until: int) -> KeyRotated:
    return KeyRotated(prefix="kl", hint="kl_1234…wxyz", digest="bb" * 32, previous_expires_at=until)


def verdict(history: list[Event], moment: PointInTime, *scopes: str) -> PastVerdict:
    at = moment.at if isinstance(moment, Time) else moment.position * 100
    return verdict_of(past(history, moment, at), scopes)


LIFE = given(BORN, OFF, ON, changed(scopes=("b",)), KeyRevoked(reason="Found in a gist"))


@pytest.mark.parametrize(
    ("moment", "code", "position", "words"),
    [
        (
            Time(1_000),
            "VALID",
            10,
            "Yes: operator ‹op› created it at 1970-01-01 00:00:01.000 UTC, and nothing had",
        ),
        (Time(1_999), "VALID", 10, "Yes: operator ‹op› created it"),
        (
            Time(2_000),
            "DISABLED",
            20,
            "No: operator ‹op› disabled it at 1970-01-01 00:00:02.000 UTC, for: leaked.",
        ),
        (Position(20), "DISABLED", 20, "for: leaked."),
        (Position(29), "DISABLED", 20, "for: leaked."),
        (Position(30), "VALID", 30, "Yes: operator ‹op› enabled it at 1970-01-01 00:00:03.000 UTC"),
        (Time(4_000), "VALID", 40, "Yes: operator ‹op› changed its scopes or expiry at"),
        (
            Time(5_000),
            "REVOKED",
            50,
            "No: operator ‹op› revoked it at 1970-01-01 00:00:05.000 UTC, for: Found in a gist.",
        ),
        # A revoked key stays revoked after the time when it would have expired.
        (Time(5_500), "REVOKED", 50, "for: Found in a gist."),
    ],
)
def test_the_verdict_names_the_event_that_decided_it(
    moment: PointInTime, code: str, position: int, words: str
) -> None:
    found = verdict(LIFE, moment, "b")
    assert (found.code, found.cause.position, found.cause.at) == (code, position, position * 100)
    assert found.valid == (code == "VALID")
    assert words in found.words
    assert found.cause.actor == "op"


def test_the_verdict_shows_the_key_as_it_was_then() -> None:
    first, last = (verdict(LIFE, Position(at)).key for at in (10, 50))
    assert first
    assert last
    assert (first.id, first.name, first.scopes, first.expires_at) == (
        "00abcdefghij",
        "Web",
        ("a", "b"),
        5_500,
    )
    assert (first.enabled, first.revoked) == (True, False)
    assert (last.scopes, last.revoked) == (("b",), True)


def test_a_key_expires_at_the_exact_ms_and_the_event_that_set_it_is_named() -> None:
    assert [verdict(given(BORN), Time(at)).code for at in (5_499, 5_500)] == ["VALID", "EXPIRED"]
    sooner = given(BORN, ON, changed(expires_at=4_000), changed(name="Another", expires_at=5_500))
    found = verdict(sooner[:3], Time(4_000))
    assert (found.code, found.cause.position) == ("EXPIRED", 30)
    assert found.words == (
        "No: it had expired at 1970-01-01 00:00:04.000 UTC, "
        "as operator ‹op› set at 1970-01-01 00:00:03.000 UTC."
    )


def test_an_unrelated_change_is_not_named_as_the_cause() -> None:
    renamed = given(BORN, changed(name="Another"))
    assert verdict(renamed, Time(9_000)).cause.position == 10
    assert verdict(renamed, Time(2_000)).cause.position == 10
    assert verdict(renamed, Time(2_000), "c").cause.position == 10


def test_the_missing_scopes_and_the_scopes_held_are_named() -> None:
    found = verdict(LIFE, Position(40), "b", "a", "c")
    assert (found.code, found.cause.position) == ("INSUFFICIENT_SCOPES", 40)
    assert found.words.startswith("No: it lacked a, c. ")
    assert found.words.endswith("were: b.")
    assert verdict(given(replace(BORN, scopes=())), Time(1_000), "a").words.endswith("were: none.")


@pytest.mark.parametrize(
    ("payloads", "code"),
    [
        ((OFF, KeyRevoked(reason="")), "REVOKED"),
        ((OFF,), "DISABLED"),
        ((), "EXPIRED"),
    ],
)
def test_of_several_reasons_the_one_with_the_highest_precedence_is_given(
    payloads: tuple[KeyToggled | KeyRevoked, ...], code: str
) -> None:
    assert verdict(given(BORN, *payloads), Time(9_000), "nothing it holds").code == code


def test_an_empty_reason_is_left_out() -> None:
    found = verdict(given(BORN, KeyToggled(enabled=False, reason="")), Time(2_000))
    assert found.words == "No: operator ‹op› disabled it at 1970-01-01 00:00:02.000 UTC."


@pytest.mark.parametrize(
    ("grace", "at", "until"),
    [
        (4_000, 1_999, None),  # before the rotation
        (4_000, 2_000, 4_000),
        (4_000, 3_999, 4_000),
        (4_000, 4_000, None),
        (9_000, 3_000, 5_500),  # never longer than the key itself
        (2_000, 2_000, None),  # no grace at all
    ],
)
def test_a_rotated_secret_was_valid_during_its_grace_period(grace: int, at: int, until: int | None) -> None:
    found = verdict(given(BORN, rotated(grace)), Time(at))
    assert (found.code, found.earlier_secret_until) == ("VALID", until)
    assert ("was also valid until 1970-01-01 00:00:0" in found.words) == (until is not None)
    assert ("rotated it" in found.words) == (at >= 2_000)


def test_a_rotated_secret_of_a_disabled_key_was_not_valid() -> None:
    off = given(BORN, rotated(5_000), OFF)
    assert verdict(off, Time(3_000)).earlier_secret_until is None
    assert "was also valid" not in verdict(off, Time(3_000)).words
    # Here only a scope is missing, and the earlier secret was as valid as the current one.
    assert verdict(off, Time(2_000), "c").earlier_secret_until == 5_000
