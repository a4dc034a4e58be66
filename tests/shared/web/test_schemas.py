"""The schemas that all services share."""

from typing import Any

import pytest
from marshmallow import ValidationError

from shared.web.schemas import IfMatchSchema


def versions(header: str) -> Any:
    loaded: dict[str, Any] = IfMatchSchema().load({"If-Match": header})
    return loaded["if_match"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("*", None),
        (" * ", None),
        ('"3"', {3}),
        ('W/"3"', {3}),
        ('"1", "2"', {1, 2}),
        ('"1","2"', {1, 2}),
        (' "1" ,\t W/"2", ', {1, 2}),
        (', "1",, "2"', {1, 2}),
        ('"1", "another,program\'s"', {1}),
        ('"another,program\'s"', set()),
        ('""', set()),
        ('"' + "9" * 5_000 + '"', set()),
        ('"-1"', set()),
    ],
)
def test_if_match_accepts_every_form_of_the_standard(header: str, expected: Any) -> None:
    assert versions(header) == expected


@pytest.mark.parametrize(
    "header", ["", "3", '"3', '3"', 'w/"3"', '"1" "2"', "*, *", '*, "1"', "W/*", "'3'", '"1", 2']
)
def test_a_malformed_if_match_is_rejected_and_never_matches_any_version(header: str) -> None:
    with pytest.raises(ValidationError, match="quoted ETag"):
        versions(header)


def test_a_missing_if_match_matches_any_version() -> None:
    assert IfMatchSchema().load({}) == {"if_match": None}


def test_a_long_malformed_if_match_is_rejected_quickly() -> None:
    with pytest.raises(ValidationError):
        versions('"1"' + ", \t" * 20_000 + "x")
