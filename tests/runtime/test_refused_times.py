"""Every input that accepts a time or position rejects invalid and out-of-range values."""

import pytest
from marshmallow import Schema, ValidationError

from services.audit.web.forensics_schemas import TypedVerdictSchema, VerdictQuerySchema
from services.audit.web.schemas import FiltersSchema, TypedFiltersSchema
from services.keys.web.forms import read
from services.keys.web.schemas import KeyChangeSchema, KeyPatchSchema, KeyQuerySchema, NewKeySchema
from shared.clock import parse_rfc3339
from shared.eventstore.point_in_time import Time
from shared.web.schemas import PageSchema, PositionHeaderSchema

TIMES = ["9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01", "10000-01-01T00:00:00Z", 10**30, ""]


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize(
    ("schema", "field"),
    [
        (NewKeySchema(), "expires_at"),
        (KeyChangeSchema(), "expires_at"),
        (KeyPatchSchema(), "expires_at"),
        (KeyQuerySchema(), "at"),
        (FiltersSchema(), "since"),
        (FiltersSchema(), "until"),
        (VerdictQuerySchema(), "at"),
    ],
)
def test_an_invalid_or_out_of_range_time_is_rejected_with_its_field(
    schema: Schema, field: str, time: object
) -> None:
    if time == "" and isinstance(schema, FiltersSchema):
        return  # an empty filter is none
    with pytest.raises(ValidationError) as refusal:
        schema.load({field: str(time) if isinstance(schema, KeyQuerySchema | VerdictQuerySchema) else time})
    assert "time" in refusal.value.messages_dict[field][0]


@pytest.mark.parametrize("typed", ["10000-01-01T00:00", "0000-12-31T23:59", "275760-09-13T00:00"])
def test_a_form_rejects_a_time_outside_the_supported_years(typed: str) -> None:
    for schema, fields in (
        (TypedFiltersSchema(), {"since": typed}),
        (TypedVerdictSchema(), {"key_id": "a", "at": typed}),
        (NewKeySchema(), read({"name": "a", "expires_at": typed})),
    ):
        with pytest.raises(ValidationError):
            schema.load(fields)


@pytest.mark.parametrize(
    "typed",
    [
        "2099-11-30T20:00",
        "2099-11-30t20:00",
        "2099-11-30T20:00:00.000",
        "2099-11-30T20:00:00Z",
        "2099-11-30t20:00:00z",
        "2099-11-30T22:00:00+02:00",
    ],
)
def test_a_form_accepts_a_time_with_or_without_seconds_and_offset(typed: str) -> None:
    at = parse_rfc3339("2099-11-30T20:00:00Z")
    assert TypedFiltersSchema().load({"since": typed})["since"] == at
    assert TypedVerdictSchema().load({"key_id": "a", "at": typed})["at"] == Time(at)
    assert NewKeySchema().load(read({"name": "a", "expires_at": typed})).expires_at == at


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 10**30, -1, "1e3", float("inf")])
def test_an_invalid_ledger_position_is_rejected(number: float) -> None:
    with pytest.raises(ValidationError):
        PositionHeaderSchema().load({"X-Ledger-Position": str(number)})
    with pytest.raises(ValidationError):
        PageSchema().load({"cursor": str(number)})
