"""Adding a class is enough for a new event type to be known everywhere."""

from pathlib import Path

from tests.support.source_copy import copy_source, run_script

CLASS = """

class KeyTransferred(Payload, frozen=True, kw_only=True):
    TYPE = "KeyTransferred"
    SCHEMA = 1
    TITLE = "Key transferred"
    SUBJECTS = (KEY_SUBJECT,)

    team: str
    former_team: Hidden[Repeated[str]]
    since: Time
    reason: Reason
"""

USE = """
from services.audit.log.audit_entry import parse_event
from services.audit.log.terms import term_of, terms_of
from services.keys.web.schemas import EventSchema
from shared.errors import InvalidFieldError
from shared.eventstore.codec import EVENT_TYPES, decode, encode
from shared.eventstore.envelope import Actor, Record, Request, enveloped
from shared.eventstore.events import KeyTransferred
from tests.documents import tables
from tests.shared.text.test_tokens import TOKEN


def event(**changed):
    fields = {"team": "shop", "former_team": "desk", "since": 0, "reason": ""} | changed
    return enveloped(
        [KeyTransferred(**fields)],
        subject="key:00abcdefghij",
        after_version=1,
        workspace="default",
        actor=Actor(kind="account", id="account:ann@example.org", label="ann@example.org"),
        request=Request(id="r1", ip=None, user_agent=None),
        new_id=lambda: "event-1",
    )[0]


record = Record(2, 5, encode(event(since=10**20)))
read = decode(record)
assert read.data.team == "shop"
assert read.data.since < 10**20, "a time that can't be printed"
title, changes = parse_event(record).description
assert title == "Key transferred"
assert [change.field for change in changes] == ["team", "since"]
assert {"shop", "desk", term_of("type", "KeyTransferred")} <= terms_of(record)
assert "KeyTransferred" in EVENT_TYPES
schema = EventSchema()
assert "KeyTransferred" in schema.fields["type"].validate.choices
assert schema.dump(read)["data"]["since"] == "9999-12-31T23:59:59.999Z"
assert schema.dump(read)["data"]["reason"] is None
assert "| `KeyTransferred` | 1 |" in tables()["events.md", "events"]
try:
    event(team=TOKEN)
except InvalidFieldError as error:
    assert error.field == "team"
else:
    raise AssertionError("a key in a field without marks")
assert TOKEN[12:40] not in event(former_team=TOKEN).data.former_team
"""


def test_adding_a_class_is_enough_to_support_a_new_event_type(tmp_path: Path) -> None:
    copy_source(tmp_path)
    with (tmp_path / "shared/eventstore/events.py").open("a") as events:
        events.write(CLASS)
    run_script(tmp_path, USE)
