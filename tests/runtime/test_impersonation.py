"""Names can't be used to impersonate others: they're fully visible, and the kind of actor is shown."""

import pytest
from click.testing import CliRunner
from flask import Flask, g, render_template
from marshmallow import Schema, ValidationError

from services.accounts.model.account import checked_email
from services.accounts.web.schemas import ReasonSchema
from services.audit.log.audit_entry import parse_entry
from services.audit.log.entry import GENESIS, entry_of
from services.audit.web.entry_view import row
from services.cli import main
from services.keys.model.key import evolve
from services.keys.verification.as_of import verdict_before
from services.keys.web.schemas import (
    KeyChangeSchema,
    KeyPatchSchema,
    KeySchema,
    NewKeySchema,
    RevocationSchema,
    presented,
)
from shared.errors import InvalidFieldError
from shared.eventstore.codec import decode, encode
from shared.eventstore.envelope import Actor, Event, Record, Request, actor_name, enveloped
from shared.identity import ADMIN, Principal
from shared.web.schemas import ACTOR_KINDS
from tests.shared.text.test_texts import HIDDEN, VISIBLE
from tests.support.application import application
from tests.support.histories import created

OWNER = "owner@localhost"
FIELDS = [
    (NewKeySchema(), "name"),
    (NewKeySchema(), "description"),
    (KeyPatchSchema(), "name"),
    (KeyPatchSchema(), "description"),
    (KeyPatchSchema(), "reason"),
    (KeyChangeSchema(), "name"),
    (KeyChangeSchema(), "reason"),
    (RevocationSchema(), "reason"),
    (ReasonSchema(), "reason"),
]


@pytest.fixture(scope="module")
def app() -> Flask:
    return application()


def born(kind: str, label: str = OWNER, name: str = "Billing") -> Record:
    event = enveloped(
        [created(name)],
        subject="key:3fA9bQ27LmZ0",
        after_version=0,
        workspace="default",
        actor=Actor(kind=kind, id="1", label=label),  # type: ignore[arg-type]  # one of the kinds
        request=Request(id="r1", ip=None, user_agent=None),
        new_id=lambda: "event-1",
    )[0]
    return Record(1, 1_795_460_361_123, encode(event))


def pages(app: Flask, record: Record) -> dict[str, str]:
    """Renders everything that shows a key's creator."""
    event: Event = decode(record)
    key = presented(evolve(None, event))
    verdict = verdict_before(event, event.at)
    with app.test_request_context("/"):
        g.principal = Principal(
            kind="account", id="a", label="a", workspace="default", scopes=frozenset({ADMIN})
        )
        details = render_template("keys/details.html", key=key, lifecycle=[], past=None, errors={}, use=None)
        entry = render_template("audit/entry.html", entry=row(parse_entry(entry_of(record, GENESIS)), {}))
    return {"details": details, "entry": entry, "verdict": verdict.words}


def test_a_key_named_like_the_owner_is_shown_as_a_key(app: Flask) -> None:
    for page in pages(app, born("key")).values():
        assert f"key ‹{OWNER}›" in page
    for page in pages(app, born("account")).values():
        assert OWNER in page
        assert f"‹{OWNER}›" not in page


def test_each_kind_of_actor_is_displayed_differently() -> None:
    assert len({actor_name(OWNER, kind) for kind in (*ACTOR_KINDS, None)}) == len(ACTOR_KINDS) + 1


@pytest.mark.parametrize("kind", ACTOR_KINDS)
def test_a_key_reports_the_kind_of_actor_that_created_it(kind: str) -> None:
    key = presented(evolve(None, decode(born(kind))))
    assert KeySchema().dump(key)["created_by"] == OWNER
    assert KeySchema().dump(key)["created_by_kind"] == kind


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize(("schema", "field"), FIELDS)
def test_invisible_characters_are_rejected_in_every_field(schema: Schema, field: str, hidden: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        schema.load({"name": "n", "enabled": True} | {field: f"own{hidden}er"}, unknown="exclude")
    assert f"U+{ord(hidden):04X}" in refusal.value.messages_dict[field][0]


@pytest.mark.parametrize("blank", ["\u2800", "\u0301", "\u2800 \u2800"])
@pytest.mark.parametrize(("schema", "field"), FIELDS)
def test_blank_text_is_rejected_in_every_field(schema: Schema, field: str, blank: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        schema.load({"name": "n", "enabled": True} | {field: blank}, unknown="exclude")
    assert "visible character" in refusal.value.messages_dict[field][0]


@pytest.mark.parametrize("name", VISIBLE)
def test_names_can_use_any_script(name: str) -> None:
    assert NewKeySchema().load({"name": name}).name == name


@pytest.mark.parametrize("hidden", [*HIDDEN.values(), "\u2800", " "], ids=[*HIDDEN, "braille blank", "space"])
def test_an_email_with_invisible_characters_is_rejected(hidden: str) -> None:
    with pytest.raises(InvalidFieldError, match="e-mail"):
        checked_email(f"own{hidden}er@localhost")


@pytest.mark.parametrize(
    "command",
    [
        ["key", "create", "own\u202eer"],
        ["key", "create", "n", "--description", "a\u200bb"],
        ["key", "disable", "3fA9bQ27LmZ0", "--reason", "a\u2028b"],
        ["key", "revoke", "3fA9bQ27LmZ0", "--reason", "a\x1b[31mb"],
        ["account", "disable", "a@example.org", "--reason", "a\u202eb"],
    ],
)
def test_the_command_line_rejects_invisible_characters_in_one_line(command: list[str]) -> None:
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "character U+" in result.output


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_hidden_characters_in_stored_names_are_escaped(app: Flask, hidden: str) -> None:
    shown = pages(app, born("key", label=f"own{hidden}er", name=f"Bill{hidden}ing"))
    for page in (shown["details"], shown["entry"]):
        assert hidden not in page
        assert "own\\" in page
        assert "Bill\\" in page


def test_a_name_cannot_close_the_quotes_around_it() -> None:
    assert actor_name("ci› revoked it. owner@localhost ‹", "key") == "key ‹ci> revoked it. owner@localhost <›"
