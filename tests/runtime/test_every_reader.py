"""Every event that the codec accepts can be shown in views, pages, responses, verdicts and files."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from flask import Flask, g, render_template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.audit.export.csv import csv_lines
from services.audit.export.jsonl import entry_line, read_entry
from services.audit.log.audit_entry import parse_entry
from services.audit.log.entry import GENESIS, Entry, entry_of
from services.audit.log.terms import terms_of
from services.audit.web.entry_view import row
from services.audit.web.schemas import EntrySchema
from services.keys.model.key import Key, evolve
from services.keys.model.point_in_time import past
from services.keys.read_model.index import moves
from services.keys.verification.as_of import verdict_of
from services.keys.verification.cache import cached_key
from services.keys.verification.verifier import Verdict, code_at, end_of
from services.keys.web.fast_path import to_json
from services.keys.web.forms import texts_of
from services.keys.web.presentation import event_row
from services.keys.web.schemas import EventSchema, KeySchema, presented
from shared.clock import LAST_TIME, rfc3339
from shared.eventstore.cloudevents import line_of, record_of
from shared.eventstore.codec import decode
from shared.eventstore.envelope import Event, Record
from shared.eventstore.events import KeyCreated, KeyDetailsChanged, KeyRevoked, KeyRotated, KeyToggled
from shared.eventstore.payload import Payload
from shared.eventstore.point_in_time import Position
from shared.identity import ADMIN, Principal
from tests.support.application import application
from tests.support.every_event import payloads, record, values_of

KEY = "key:3fA9bQ27LmZ0"
NOW = 1_795_460_361_123
HEX = st.just("ab" * 32)
LIVES = st.tuples(
    values_of(KeyCreated),
    st.lists(st.one_of(*map(values_of, (KeyToggled, KeyDetailsChanged, KeyRotated))), max_size=2),
    st.lists(values_of(KeyRevoked), max_size=1),
).map(lambda parts: [_hex(payload) for payload in (parts[0], *parts[1], *parts[2])])
FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _hex(payload: Payload) -> Payload:
    """Returns the payload with a valid hash as its digest, which verdicts require."""
    return msgspec.structs.replace(payload, digest="ab" * 32) if hasattr(payload, "digest") else payload


@pytest.fixture(scope="module")
def app() -> Flask:
    return application()


def test_the_property_tests_cover_every_event_type() -> None:
    assert len(payloads()) >= 17
    assert KeyCreated in payloads()


@FEW
@given(life=LIVES)
def test_a_key_with_any_events_can_be_listed_verified_and_displayed(app: Flask, life: list[Payload]) -> None:
    records = [record(payload, subject=KEY, version=n, position=n) for n, payload in enumerate(life, 1)]
    events = [decode(each) for each in records]
    key: Key | None = None
    for event in events:
        before, key = key, evolve(key, event)
        assert msgspec.json.decode(msgspec.json.encode(key), type=Key) == key
        assert all(float(score) == score for held in moves(before, key) for *_, score in held)
        assert json.loads(json.dumps(KeySchema().dump(presented(key))))["id"] == key.id
        assert texts_of(key)["name"] == key.name
    assert json.dumps(EventSchema(many=True).dump(events))
    standing = cached_key(events)
    verdict = Verdict(code_at(standing, NOW, end_of(standing), ()), 1, standing)
    assert json.loads(to_json(verdict))["key_id"] == KEY.partition(":")[2]
    assert verdict_of(past(events, Position(len(events)), NOW), ["a"]).words
    assert key is not None
    _show_details(app, key, events)


def _show_details(app: Flask, key: Key, events: Sequence[Event]) -> None:
    shown = _rendered(
        app,
        "keys/details.html",
        key=presented(key),
        old_secret_ends_at=key.previous_expires_at,
        lifecycle={"events": [event_row(event) for event in events]},
        past=past(events, Position(len(events)), NOW),
        last=event_row(events[-1]),
        errors={},
    )
    assert key.id in shown


@FEW
@given(payload=st.one_of(*map(values_of, payloads())))
def test_any_event_can_be_displayed_and_exported_by_the_audit_log(app: Flask, payload: Payload) -> None:
    original = record(payload, subject=KEY)
    assert decode(original).data.describe().title
    entry = entry_of(original, GENESIS)
    assert terms_of(original)
    assert json.dumps(EntrySchema().dump(parse_entry(entry)))
    assert b"".join(csv_lines([entry])).count(payload.TYPE.encode()) == 1
    assert read_entry(entry_line(entry)) == entry
    assert record_of(line_of(original)) == original
    assert payload.TYPE in _rendered(app, "audit/entry.html", entry=row(parse_entry(entry), {}))


def _rendered(app: Flask, template: str, **values: Any) -> str:
    with app.test_request_context("/"):
        g.principal = Principal(
            kind="account", id="a", label="a", workspace="default", scopes=frozenset({ADMIN})
        )
        return render_template(template, **values)


@pytest.mark.parametrize("at", [LAST_TIME + 60_000, 2**63, 10**30])
def test_an_expiry_after_the_year_9999_is_shown_as_the_last_valid_time(at: int) -> None:
    created = KeyCreated(
        name="n", description="", prefix="kl", hint="h", digest="ab" * 32, scopes=(), expires_at=at
    )
    key = evolve(None, decode(record(created, subject=KEY)))
    assert KeySchema().dump(presented(key))["expires_at"] == rfc3339(LAST_TIME)
    assert key.status(NOW) == "active"


def test_an_audit_entry_keeps_an_out_of_range_expiry_unchanged() -> None:
    created = KeyCreated(
        name="n", description="", prefix="kl", hint="h", digest="ab" * 32, scopes=(), expires_at=10**30
    )
    entry: Entry = entry_of(record(created, subject=KEY), GENESIS)
    assert EntrySchema().dump(parse_entry(entry))["data"]["expires_at"] == 10**30
    assert str(10**30).encode() in b"".join(csv_lines([entry]))


def test_an_event_after_the_year_9999_is_shown_at_the_last_valid_time() -> None:
    late = Record(1, LAST_TIME + 86_400_000, record(KeyRevoked(reason=""), subject=KEY).body)
    entry = entry_of(late, GENESIS)
    assert EntrySchema().dump(parse_entry(entry))["at"] == rfc3339(LAST_TIME)
    assert rfc3339(LAST_TIME).encode() in b"".join(csv_lines([entry]))
