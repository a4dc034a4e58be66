import json
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from shared.clock import LAST_TIME
from shared.eventstore.codec import FORMS, decode, encode, name_of, open_envelope
from shared.eventstore.command_handler import Journal
from shared.eventstore.envelope import Actor, NewEvent, Record, Request, UnreadableEventError, enveloped
from shared.eventstore.events import (
    AccessDenied,
    AccountAdded,
    AccountDisabled,
    AccountEnabled,
    AccountRoleChanged,
    AuditChecked,
    AuditExported,
    AuditFinding,
    KeyCreated,
    KeyDetails,
    KeyDetailsChanged,
    KeyRevoked,
    KeyRotated,
    KeyToggled,
    PasswordChanged,
    SignedIn,
    SignedOutEverywhere,
    SignInFailed,
)
from shared.eventstore.ledger import BEGINNING, Ledger
from shared.eventstore.payload import Payload

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
COUNT = st.integers(0, 2**53 - 1)
TIME = st.integers(0, LAST_TIME)
SCOPES = st.lists(TEXT).map(tuple)
DETAILS = st.builds(KeyDetails, name=TEXT, description=TEXT, scopes=SCOPES, expires_at=st.none() | TIME)
FACTS = st.one_of(
    st.builds(
        KeyCreated,
        name=TEXT,
        description=TEXT,
        prefix=TEXT,
        hint=TEXT,
        digest=TEXT,
        scopes=SCOPES,
        expires_at=st.none() | TIME,
    ),
    st.builds(KeyToggled, enabled=st.booleans(), reason=TEXT),
    st.builds(KeyDetailsChanged, before=DETAILS, after=DETAILS, reason=TEXT),
    st.builds(KeyRotated, prefix=TEXT, hint=TEXT, digest=TEXT, previous_expires_at=TIME),
    st.builds(KeyRevoked, reason=TEXT),
    st.builds(AccountAdded, role=TEXT),
    st.builds(AccountRoleChanged, before=TEXT, after=TEXT),
    st.builds(AccountDisabled, reason=TEXT),
    st.builds(AccountEnabled),
    st.builds(PasswordChanged),
    st.builds(SignedOutEverywhere),
    st.builds(SignedIn),
    st.builds(SignInFailed, attempts=st.integers(1, 2**53 - 1)),
    st.builds(AccessDenied, scope=TEXT, attempts=COUNT),
    st.builds(
        AuditExported,
        format=TEXT,
        filters=st.dictionaries(st.sampled_from(["actor", "q", "since"]), TEXT),
        position=COUNT,
    ),
    st.builds(
        AuditChecked,
        entries=COUNT,
        checkpoints=COUNT,
        position=COUNT,
        findings=st.lists(
            st.builds(AuditFinding, kind=TEXT, count=COUNT, position=COUNT, detail=TEXT), max_size=3
        ).map(tuple),
    ),
)


def event(payload: Payload, label: str = "op") -> NewEvent:
    return enveloped(
        [payload],
        subject="key:a",
        after_version=0,
        workspace="default",
        actor=Actor(kind="operator", id="o", label=label),
        request=Request(id="r", ip=None, user_agent=None),
        new_id=lambda: "id1",
    )[0]


def body(**changes: object) -> bytes:
    stored = msgspec.json.decode(encode(event(KeyToggled(enabled=True, reason=""))))
    return msgspec.json.encode(stored | changes)


@given(FACTS, TEXT)
def test_events_are_stored_as_canonical_json_per_rfc_8785(payload: Payload, label: str) -> None:
    stored = encode(event(payload, label))
    assert stored == rfc8785.dumps(msgspec.json.decode(stored))


@given(FACTS)
def test_an_event_is_decoded_as_it_was_encoded(payload: Payload) -> None:
    read = decode(Record(7, 1234, encode(event(payload))))
    assert (read.data, read.position, read.at, read.version, read.type) == (payload, 7, 1234, 1, payload.TYPE)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{}",
        b"\xff",
        body(type="KeyTeleported"),
        body(schema=99),
        body(data={}),
        body(data={"enabled": "yes", "reason": ""}),
        body(data={"enabled": True, "reason": "", "more": 1}),
        body(data={"enabled": True, "reason": None}),
        body(schema=1, data={"enabled": True}),
        body(schema=1, data={"enabled": True, "reason": None, "more": 1}),
        body(schema=3),
        body(colour="blue"),
    ],
)
def test_an_event_that_is_not_fully_understood_is_rejected_with_its_position(stored: bytes) -> None:
    with pytest.raises(UnreadableEventError, match="position 9"):
        decode(Record(9, 0, stored))


def test_the_id_and_subject_of_an_unreadable_event_can_still_be_read() -> None:
    assert name_of(Record(1, 0, body(type="KeyTeleported"))) == ("id1", "key:a")
    assert name_of(Record(1, 0, b"nonsense")) == (None, None)


def test_an_event_with_a_lone_surrogate_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        encode(event(KeyToggled(enabled=True, reason="\ud800")))


def test_an_event_about_a_subject_of_another_kind_is_not_appended(fake_store: Redis) -> None:
    ledger = Ledger(fake_store)
    actor, request = Actor(kind="operator", id="o", label="op"), Request(id="r", ip=None, user_agent=None)
    record = partial(
        Journal(ledger, lambda: "id1").record,
        KeyToggled(enabled=True, reason=""),
        workspace="default",
        actor=actor,
        request=request,
    )
    with pytest.raises(ValueError, match=r"KeyToggled can't be about .*'account:ada@example\.org'"):
        record(subject="account:ada@example.org")
    assert ledger.head() == BEGINNING
    assert record(subject="key:a") == 1


STORED = json.loads((Path(__file__).parent / "fixtures/stored_events.json").read_text())


@pytest.mark.parametrize(
    "event", STORED, ids=[f"{n}-{row['read']['type']}" for n, row in enumerate(STORED, 1)]
)
def test_an_event_stored_by_an_earlier_version_is_decoded_as_before(event: dict[str, Any]) -> None:
    read = event["read"]
    decoded = decode(Record(read["position"], read["at"], event["stored"].encode()))
    assert msgspec.json.decode(msgspec.json.encode(decoded)) == read
    assert msgspec.json.decode(event["stored"])["type"] == decoded.data.TYPE


def test_the_stored_fixtures_cover_every_event_type_and_schema() -> None:
    stored = {(row["type"], row["schema"]) for row in (json.loads(event["stored"]) for event in STORED)}
    assert stored >= {(payload.TYPE, payload.SCHEMA) for payload in FORMS}


def test_reencoding_a_stored_event_gives_the_same_bytes() -> None:
    for stored in (event["stored"].encode() for event in STORED):
        envelope = open_envelope(Record(1, 1, stored))
        form = next(f for f in FORMS if (envelope.type, envelope.schema) == (f.TYPE, f.SCHEMA))
        payload = msgspec.json.decode(envelope.data, type=form)
        fields = msgspec.structs.asdict(envelope) | {"data": payload}
        assert encode(NewEvent(**fields)) == stored
