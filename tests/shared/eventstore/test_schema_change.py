"""Events stored by an older version are read as the current schema and stay unchanged."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis import Redis

from services.audit.integrity.signed_note import PublicKey
from services.audit.integrity.verify_log import Trust
from services.audit.integrity.verify_log import check as check_audit_log
from services.audit.log.audit_entry import parse_entry
from services.audit.log.entry import canonical
from services.audit.log.store import AuditLog
from services.keys.commands import fold
from services.keys.read_model.generations import Views
from services.keys.read_model.projector import Projector
from services.keys.read_model.rebuild.replay import check
from services.keys.web.schemas import EventSchema
from shared.eventstore.codec import decode, encode
from shared.eventstore.envelope import Actor, NewEvent, Record, Request, enveloped
from shared.eventstore.events import KeyCreated, KeyToggled
from shared.eventstore.ledger import Ledger
from shared.eventstore.payload import Change, Payload

FIXTURES = Path(__file__).parent / "fixtures"
KEY = "00abcdefghij"
CREATED = KeyCreated(
    name="Old", description="", prefix="kl", hint="kl_00ab…x7Qz", digest="d", scopes=(), expires_at=None
)


def stored(name: str) -> bytes:
    """Returns the exact bytes of an event that the previous version stored."""
    return (FIXTURES / f"{name}.json").read_bytes()


SWITCHED_OFF = stored("key_toggled_schema_1_with_reason")
SWITCHED_ON = stored("key_toggled_schema_1_without_reason")


def new(payload: Payload, version: int) -> NewEvent:
    return enveloped(
        [payload],
        subject=f"key:{KEY}",
        after_version=version - 1,
        workspace="default",
        actor=Actor(kind="operator", id="o", label="op"),
        request=Request(id="r", ip=None, user_agent=None),
        new_id=lambda: f"event-{version}",
    )[0]


@pytest.fixture
def ledger(fake_store: Redis) -> Ledger:
    """A key that was created, disabled and enabled before the schema change, and disabled after it."""
    ledger = Ledger(fake_store)
    old = [encode(new(CREATED, 1)), SWITCHED_OFF, SWITCHED_ON]
    ledger.fill(0, [Record(position, position * 1000, body) for position, body in enumerate(old, 1)])
    ledger.append(f"key:{KEY}", [new(KeyToggled(enabled=False, reason=""), 4)], 3)
    return ledger


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    audit_log = AuditLog(f"sqlite:///{tmp_path / 'audit.db'}")
    yield audit_log
    audit_log.close()


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (SWITCHED_OFF, KeyToggled(enabled=False, reason="leaked")),
        (SWITCHED_ON, KeyToggled(enabled=True, reason="")),
    ],
)
def test_an_old_event_is_decoded_as_the_current_schema(body: bytes, payload: Payload) -> None:
    event = decode(Record(2, 5, body))
    assert (event.data, type(event.data), event.schema) == (payload, KeyToggled, 2)
    assert (event.version, event.actor.label) == (json.loads(body)["version"], "ann@example.org")


def test_views_of_old_and_new_events_match_the_keys_history(ledger: Ledger, fake_store: Redis) -> None:
    views = Views(fake_store)
    while Projector(ledger, views).step(wait_ms=1):
        pass
    (row,) = views.page("default", 10).keys
    assert row == fold(ledger.history(f"key:{KEY}"))
    assert (row.enabled, row.version, row.name) == (False, 4, "Old")
    assert views.live().parked() == {}
    assert check(ledger, views).equal


def test_the_audit_log_stores_old_events_unchanged_and_passes_its_check(
    ledger: Ledger, log: AuditLog
) -> None:
    log.append(ledger.read(0, 10))
    nobody = PublicKey("nobody", Ed25519PrivateKey.generate().public_key())
    found = check_audit_log(log, ledger, Trust(nobody, None), lambda *_: None)
    assert (found.ok, found.entries, found.behind) == (True, 4, 0)
    _, off, on, _ = log.walk(4)
    assert off.record == canonical(Record(2, 2000, SWITCHED_OFF))
    assert parse_entry(on).event.fields == json.loads(SWITCHED_ON)
    assert parse_entry(off).event.description == (
        "Key disabled",
        (Change("enabled", True, False), Change("reason", None, "leaked")),
    )
    assert parse_entry(on).event.description.changes == (Change("enabled", False, True),)


def test_the_api_returns_old_and_new_events_in_the_same_schema(ledger: Ledger) -> None:
    told = [EventSchema().dump(event) for event in ledger.history(f"key:{KEY}")[1:]]
    assert [(event["schema"], event["data"]) for event in told] == [
        (2, {"enabled": False, "reason": "leaked"}),
        (2, {"enabled": True, "reason": None}),
        (2, {"enabled": False, "reason": None}),
    ]


def test_reading_old_events_does_not_rewrite_them(ledger: Ledger) -> None:
    ledger.history(f"key:{KEY}")
    bodies = [record.body for record in ledger.read(0, 10)]
    assert bodies[1:3] == [SWITCHED_OFF, SWITCHED_ON]
    assert msgspec.json.decode(bodies[3])["schema"] == 2
