"""Turning events into entries, describing them, and chaining their hashes."""

import hashlib
import json
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from services.audit.log.audit_entry import parse_entry, parse_event
from services.audit.log.entry import GENESIS, GENESIS_PREIMAGE, Entry, canonical, chain, entry_of, record_of
from shared.eventstore.codec import EVENT_TYPES, PRESENT_FORMS
from shared.eventstore.envelope import Actor, Record, Request
from shared.eventstore.events import (
    AccessDenied,
    AccountAdded,
    AccountRoleChanged,
    KeyDetails,
    KeyDetailsChanged,
    KeyToggled,
)
from shared.eventstore.payload import Change, Payload
from tests.support.every_event import unmarked
from tests.support.histories import AT, created, record, records

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)


@given(texts, texts, texts, st.none() | texts)
def test_a_record_is_the_canonical_json_of_event_time_and_position(
    name: str, label: str, subject: str, user_agent: str | None
) -> None:
    actor = Actor(kind="key", id="k", label=label)
    request = Request(id="r", ip=None, user_agent=user_agent)
    event = record(7, created(name), subject=subject, actor=actor, request=request)
    whole = {"at": event.at, "event": json.loads(event.body), "position": 7}
    assert canonical(event) == rfc8785.dumps(whole)


@given(st.integers(1, 2**53), st.integers(0, 2**53), st.binary(max_size=200))
def test_an_event_round_trips_through_its_record(position: int, at: int, body: bytes) -> None:
    event = Record(position, at, body)
    assert record_of(canonical(event)) == event


@pytest.mark.parametrize("sealed", [b"", b"{}", b'{"at":1,"event":{}}', b'{"at":x,"event":{},"position":1}'])
def test_bytes_that_are_not_a_record_are_rejected(sealed: bytes) -> None:
    assert record_of(sealed) is None


def test_an_entry_hash_covers_the_entry_and_all_before_it() -> None:
    entries = list(chain(records(range(1, 4)), GENESIS))
    previous = hashlib.sha256(GENESIS_PREIMAGE).digest()
    for entry in entries:
        assert entry.previous_hash == previous
        previous = hashlib.sha256(previous + entry.record).digest()
        assert entry.entry_hash == previous


def test_a_parsed_entry_has_the_fields_of_its_event() -> None:
    sealed = entry_of(record(1, created(), subject="key:3fA9"), GENESIS)
    entry = parse_entry(sealed)
    assert (entry.position, entry.at, entry.integrity) == (1, AT + 1, "ok")
    assert (entry.previous_hash, entry.entry_hash) == (GENESIS.hex(), sealed.entry_hash.hex())
    event = entry.event
    assert (event.id, event.type, event.workspace) == ("event-1", "KeyCreated", "default")
    assert (event.subject, event.key_id) == ("key:3fA9", "3fA9")
    assert event.actor == {"kind": "account", "id": "account:ann@example.org", "label": "ann@example.org"}
    assert (event.ip, event.request_id) == ("192.0.2.7", "request-1")


def test_a_tampered_entry_is_parsed_as_far_as_possible() -> None:
    entry = parse_entry(Entry(1, "x", "\x00", None, 7))  # type: ignore[arg-type]  # as a database may return it
    assert (entry.at, entry.record, entry.previous_hash, entry.entry_hash) == (0, "\x00", "None", "7")
    assert (entry.event.type, entry.event.description.title) == (None, "Unreadable event")


def test_an_entry_about_an_account_has_no_key_id() -> None:
    event = parse_event(record(1, AccountAdded(role="owner"), subject="account:a@example.org"))
    assert (event.subject, event.key_id) == ("account:a@example.org", None)


def without(name: str, **other: Any) -> bytes:
    stored = json.loads(record(1, created()).body)
    del stored[name]
    return json.dumps(stored | other).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[1]",
        b'"text"',
        b"{}",
        b'{"id":"\xff"}',
        b'{"id":"\\ud800"}',
        b'{"id":1,"actor":[],"request":"x"}',
        b"[" * 50_000,
        without("subject", type=3),
        without("actor", request=None),
    ],
)
def test_an_unreadable_event_is_kept_unchanged(body: bytes) -> None:
    event = Record(1, AT, body)
    entry = entry_of(event, GENESIS)
    assert record_of(entry.record) == event
    assert entry.entry_hash == hashlib.sha256(GENESIS + canonical(event)).digest()
    assert parse_entry(entry).event.description.changes == ()


def test_an_unknown_event_shows_its_type_and_actor() -> None:
    event = parse_event(Record(1, AT, without("data", type="KeyBlessed", data={"by": "x"})))
    assert event.description == ("KeyBlessed", ())
    assert (event.type, event.actor["label"], event.key_id) == ("KeyBlessed", "ann@example.org", "1")


def test_a_newer_schema_of_a_known_event_is_shown_without_changes() -> None:
    event = parse_event(Record(1, AT, without("data", schema=99, data={})))
    assert event.description == ("KeyCreated", ())


def test_events_are_described_in_plain_words_with_their_changes() -> None:
    payload = created("CI", description="Nightly", scopes=("a", "b"), expires_at=AT)
    assert parse_event(record(1, payload)).description == (
        "Key created",
        (
            Change("name", None, "CI"),
            Change("description", None, "Nightly"),
            Change("scopes", None, ("a", "b")),
            Change("expires_at", None, AT, is_time=True),
        ),
    )
    off = KeyToggled(enabled=False, reason="leaked")
    assert parse_event(record(2, off)).description == (
        "Key disabled",
        (Change("enabled", True, False), Change("reason", None, "leaked")),
    )
    on = KeyToggled(enabled=True, reason="")
    assert parse_event(record(3, on)).description == (
        "Key enabled",
        (Change("enabled", False, True),),
    )
    added = AccountAdded(role="auditor")
    assert parse_event(record(4, added)).description == (
        "Account added",
        (Change("role", None, "auditor"),),
    )
    promoted = AccountRoleChanged(before="auditor", after="owner")
    assert parse_event(record(5, promoted)).description == (
        "Role changed",
        (Change("role", "auditor", "owner"),),
    )
    denied = AccessDenied(scope="keyledger:admin", attempts=3)
    assert parse_event(record(6, denied)).description == (
        "Access denied",
        (Change("scope", None, "keyledger:admin"), Change("attempts", None, 3)),
    )


def test_every_event_type_has_its_own_title() -> None:
    events = PRESENT_FORMS.values()
    titles = {_any(payload).describe().title for payload in events}
    assert len(titles) == len(events)
    assert not titles & set(EVENT_TYPES)


def _any(payload: type[Payload]) -> Payload:
    """A payload of a type, with arbitrary values."""
    details = KeyDetails(name="n", description="", scopes=(), expires_at=None)
    values = {"int": 1, "bool": True, "KeyDetails": details, "dict": {}, "tuple": ()}
    fields = {
        f.name: values.get(getattr(unmarked(f.type), "__name__", ""), "x")
        for f in msgspec.structs.fields(payload)
    }
    return payload(**fields)


def test_unset_fields_are_not_listed_as_changes() -> None:
    payload = created("CI", description="", scopes=(), expires_at=None)
    assert parse_event(record(1, payload)).description.changes == (Change("name", None, "CI"),)


def test_creation_and_change_entries_contain_the_key_name() -> None:
    before = KeyDetails(name="CI", description="", scopes=(), expires_at=None)
    renamed = KeyDetailsChanged(before=before, after=msgspec.structs.replace(before, name="CD"), reason="")
    assert parse_event(record(1, created("CI"))).key_name == "CI"
    assert parse_event(record(1, renamed)).key_name == "CD"
    assert parse_event(record(1)).key_name is None
