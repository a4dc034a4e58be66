"""The audit log's endpoint and page, on a separate web application."""

import re
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Blueprint, Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from redis import Redis

from services.audit.export.service import Exports
from services.audit.ingest.job import catch_up
from services.audit.integrity.alarms import Alarms
from services.audit.integrity.comparison import Comparison
from services.audit.log.audit_entry import AuditEntry, parse_entry
from services.audit.log.entry import GENESIS, entry_of
from services.audit.log.filters import FILTERS, Filter
from services.audit.log.store import AuditLog
from services.audit.queries import Audit
from services.audit.status import AuditStatus
from services.audit.web import pages
from services.audit.web.entry_view import row
from services.audit.web.register import register
from shared.clock import parse_rfc3339, rfc3339
from shared.eventstore.envelope import Actor, Record, Request, enveloped
from shared.eventstore.events import AccessDenied, AccountAdded, KeyToggled
from shared.eventstore.ledger import LOG, Ledger
from shared.forensics import KeyForensics
from shared.identity import AUDIT_READ, KEYS_READ, Principal, UnauthenticatedError
from shared.web.access import Access
from shared.web.app import create_app
from shared.web.server.limits import Limits
from tests.support.histories import AT, created, record
from tests.support.tampering import Tampered

PEOPLE = {
    "ann": ("default", AUDIT_READ),
    "bob": ("other", AUDIT_READ),
    "dan": ("new", AUDIT_READ),
    "eve": ("default", KEYS_READ),
}


def principal_of(name: str) -> Principal | None:
    if name not in PEOPLE:
        return None
    workspace, scope = PEOPLE[name]
    return Principal(kind="account", id=name, label=name, workspace=workspace, scopes=frozenset({scope}))


def authenticate(token: str) -> Principal:
    principal = principal_of(token)
    if principal is None:
        raise UnauthenticatedError("Who is that?")
    return principal


@pytest.fixture
def app(audit_status: AuditStatus) -> Flask:
    app, api = create_app(
        secret_key="secret",
        sessions=SecureCookieSessionInterface(),
        access=Access(authenticate, lambda name, _: principal_of(name), lambda *_: None),
        home="audit.entries_page",
        limits=Limits(None),
    )
    register(app, api, audit_status, Mock(KeyForensics), Mock(Exports))
    accounts = Blueprint("accounts", __name__)
    accounts.add_url_rule("/sign-in", "sign_in", lambda: "")
    accounts.add_url_rule("/sign-out", "sign_out", lambda: "", methods=["POST"])
    app.register_blueprint(accounts)
    return app


def append(
    ledger: Ledger, subject: str, *payloads: Any, workspace: str = "default", label: str = "Ann"
) -> None:
    version = len(ledger.history(subject))
    events = enveloped(
        payloads,
        subject=subject,
        after_version=version,
        workspace=workspace,
        actor=Actor(kind="account", id=f"account:{label}", label=label),
        request=Request(id="r-1", ip="192.0.2.7", user_agent="curl/8"),
        new_id=iter(f"{subject}/{version + n}" for n in range(1, 99)).__next__,
    )
    ledger.append(subject, events, version)


@pytest.fixture
def client(app: Flask, ledger: Ledger, sqlite_log: AuditLog) -> FlaskClient:
    append(ledger, "account:ann@example.org", AccountAdded(role="owner"))
    append(ledger, "key:1", created("My <Web> App", expires_at=AT))
    append(ledger, "key:1", KeyToggled(enabled=False, reason="leaked"), label="Bo & Co")
    append(ledger, "key:2", created("Theirs"), workspace="other")
    catch_up(sqlite_log, ledger)
    return app.test_client()


def get(client: FlaskClient, query: str = "", caller: str = "ann") -> Any:
    return client.get(f"/v1/audit/entries?{query}", headers={"Authorization": f"Bearer {caller}"})


def test_a_404_page_links_to_a_page_that_exists(client: FlaskClient) -> None:
    page = client.get("/nothing")
    (start,) = re.findall(r"start at (/\S*)\.", page.text)
    assert page.status_code == 404
    assert client.get(start, follow_redirects=True).status_code == 200


def test_the_endpoint_returns_the_callers_workspace_entries_newest_first(client: FlaskClient) -> None:
    body = get(client).json
    assert [entry["title"] for entry in body["entries"]] == [
        "Key disabled",
        "Key created",
        "Account added",
    ]
    assert body["next_cursor"] is None
    assert [entry["position"] for entry in get(client, caller="bob").json["entries"]] == [4]


def test_an_entry_contains_all_of_its_event(client: FlaskClient, sqlite_log: AuditLog) -> None:
    entry = get(client, "type=KeyCreated").json["entries"][0]
    stored = list(sqlite_log.walk(2))[1]
    assert entry == {
        "position": 2,
        "event_id": "key:1/1",
        "at": rfc3339(stored.at),
        "type": "KeyCreated",
        "title": "Key created",
        "key_id": "1",
        "subject": "key:1",
        "workspace": "default",
        "actor": {"kind": "account", "id": "account:Ann", "label": "Ann"},
        "request": {"id": "r-1", "ip": "192.0.2.7", "user_agent": "curl/8"},
        "data": {
            "name": "My <Web> App",
            "description": "",
            "prefix": "kl",
            "hint": "kl_3fA9…x7Qz",
            "digest": "ab" * 32,
            "scopes": ["orders.read"],
            "expires_at": AT,
        },
        "changes": [
            {"field": "name", "before": None, "after": "My <Web> App"},
            {"field": "scopes", "before": None, "after": ["orders.read"]},
            {"field": "expires_at", "before": None, "after": rfc3339(AT)},
        ],
        "entry_hash": stored.entry_hash.hex(),
        "previous_hash": stored.previous_hash.hex(),
        "integrity": "ok",
    }


def test_every_filter_is_applied(client: FlaskClient) -> None:
    def found(query: str) -> list[int]:
        return [entry["position"] for entry in get(client, query).json["entries"]]

    at = get(client, "key_id=1&type=KeyCreated").json["entries"][0]["at"]
    later = rfc3339(parse_rfc3339(at) + 60_000)
    assert found("key_id=1") == [3, 2]
    assert found("actor=Bo+%26+Co") == [3]
    assert found("actor=account:Ann") == [2, 1]
    assert found("actor_kind=account") == [3, 2, 1]
    assert found("actor_kind=key") == []
    assert get(client, "actor_kind=person").status_code == 422
    assert found("type=AccountAdded") == [1]
    assert found("q=LEAKED") == [3]
    assert found(f"since={at}&key_id=1") == [3, 2]
    assert found(f"since={later}") == []
    assert found(f"until={later}") == [3, 2, 1]
    assert found("key_id=&q=&cursor=&limit=") == [3, 2, 1]
    assert found("actor=%00&q=%ff%00") == []


def test_entries_are_paginated_by_cursor(client: FlaskClient) -> None:
    first = get(client, "limit=2").json
    assert first["next_cursor"] == "2"
    second = get(client, f"limit=2&cursor={first['next_cursor']}").json
    assert [entry["position"] for entry in second["entries"]] == [1]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=0", "cursor"),
        (f"cursor={'9' * 30}", "cursor"),
        ("since=yesterday", "since"),
        ("until=2026-11-23T18:59", "until"),
        (f"q={'x' * 301}", "q"),
        ("actr=ann", "actr"),
    ],
)
def test_an_invalid_field_is_named(client: FlaskClient, query: str, field: str) -> None:
    response = get(client, query)
    assert response.status_code == 422
    assert [error["field"] for error in response.json["errors"]] == [field]


def test_reading_entries_requires_the_audit_read_scope(client: FlaskClient) -> None:
    assert get(client, caller="nobody").status_code == 401
    assert get(client, caller="eve").status_code == 403
    assert client.get("/v1/audit/entries").status_code == 401


def test_an_unavailable_database_answers_503(app: Flask, ledger: Ledger, client: FlaskClient) -> None:
    app.extensions["keyledger"][Audit].log.close()
    nowhere = Comparison(AuditLog("sqlite:////nowhere/audit.db"), ledger, Mock(Alarms))
    app.extensions["keyledger"][Audit] = Audit(nowhere)
    response = get(client)
    assert response.status_code == 503
    assert response.content_type == "application/problem+json"
    assert "nowhere" not in response.text


def test_the_endpoint_parameters_are_in_the_openapi_description(client: FlaskClient) -> None:
    described = client.get("/openapi.json").json
    assert described
    parameters = {p["name"] for p in described["paths"]["/v1/audit/entries"]["get"]["parameters"]}
    filters = {"key_id", "name", "actor", "actor_kind", "type", "ip", "since", "until", "q"}
    assert parameters == filters | {"limit", "cursor", "X-Request-Id"}


@pytest.fixture
def page(client: FlaskClient) -> FlaskClient:
    with client.session_transaction() as session:
        session["account"] = "ann"
    return client


def titles(html: str) -> list[str]:
    return re.findall(r"<strong>(.*?)</strong>", html)


def test_the_page_shows_entries_newest_first(page: FlaskClient) -> None:
    html = page.get("/audit").text
    assert titles(html) == ["Key disabled", "Key created", "Account added"]
    assert "My &lt;Web&gt; App" in html
    assert "leaked" in html
    assert "Bo &amp; Co" in html
    assert "Theirs" not in html


def test_the_form_has_a_field_for_every_filter(page: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    added = Filter(name="label", label="Label of the actor", description="", example="")
    monkeypatch.setattr(pages, "FILTERS", (*FILTERS, added))
    html = page.get("/audit").get_data(as_text=True)
    for each in (*FILTERS, added):
        assert f'name="{each.name}"' in html
        assert f'<label for="{each.name}">{each.label}</label>' in html


def test_the_page_filters_and_keeps_the_entered_values(page: FlaskClient) -> None:
    html = page.get("/audit?key_id=1&type=KeyCreated&since=2020-01-01T00:00&until=2100-01-01T00:00").text
    assert titles(html) == ["Key created"]
    assert 'value="2020-01-01T00:00"' in html
    assert "<option selected>KeyCreated</option>" in html


def test_an_invalid_field_shows_its_error_and_keeps_the_entered_values(page: FlaskClient) -> None:
    response = page.get("/audit?since=yesterday&q=leaked")
    assert response.status_code == 422
    assert "It must be a time like 2026-11-23T18:59." in response.text
    assert 'value="yesterday"' in response.text
    assert 'value="leaked"' in response.text


def test_an_invalid_cursor_shows_the_newest_entries(page: FlaskClient) -> None:
    assert titles(page.get("/audit?cursor=x").text) == titles(page.get("/audit").text)


def test_an_empty_log_and_an_empty_result_have_different_messages(page: FlaskClient) -> None:
    assert "No entries match" in page.get("/audit?q=nothing+like+it").text
    with page.session_transaction() as session:
        session["account"] = "dan"
    assert "Nothing recorded yet" in page.get("/audit").text


def test_the_page_shows_that_the_log_is_behind(page: FlaskClient, ledger: Ledger) -> None:
    assert "in this log yet" not in page.get("/audit").text
    append(ledger, "key:1", KeyToggled(enabled=True, reason=""))
    assert "1 event is not in this log yet" in page.get("/audit").text


def test_the_page_shows_that_entries_are_not_indexed_yet(page: FlaskClient, sqlite_log: AuditLog) -> None:
    with sqlite_log.database.writing() as connection:
        sqlite_log.database.index.start(connection)
    assert "4 events are not in this log yet" in page.get("/audit").text


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("at", ["'abc'", "x'00'", "1.5", "-1", "9223372036854775807"])
def test_an_entry_with_a_tampered_time_is_shown_as_changed(
    page: FlaskClient, sqlite_url: str, at: str, position: int
) -> None:
    database = Tampered(sqlite_url)
    database.disarm()
    database.change(position, f"at = {at}")
    database.close()
    marks = {each["position"]: each["integrity"] for each in get(page).json["entries"]}
    assert marks == {1: "ok", 2: "ok", 3: "ok"} | {position: "mismatch"}
    for path in ("/audit", "/audit/activity", "/audit/timeline?of=1"):
        assert page.get(path).status_code == 200
    assert ">Changed<" in page.get("/audit").text


def test_an_entry_past_the_ledgers_end_is_shown_as_not_in_the_ledger(page: FlaskClient, store: Redis) -> None:
    store.xdel(LOG, "0-3", "0-4")
    assert [each["integrity"] for each in get(page).json["entries"]] == ["ledger_shorter", "ok", "ok"]
    html = page.get("/audit").text
    assert "Not in the ledger" in html
    assert ">Changed<" not in html


def compared(event: Record) -> AuditEntry:
    return parse_entry(entry_of(event, GENESIS))


def test_an_unreadable_entry_is_shown() -> None:
    entry = row(compared(Record(1, AT, b"no JSON")), {})
    assert (entry["title"], entry["type"], entry["changes"]) == ("Unreadable event", "Unknown", [])
    assert entry["actor"] == {"kind": "Unknown", "id": "Unknown", "label": "Unknown"}


def test_a_row_shows_the_name_of_its_key() -> None:
    assert row(compared(record(1, subject="key:7")), {"7": "CI"})["key_name"] == "CI"


def test_a_row_shows_the_denied_scope_or_the_account_it_is_about() -> None:
    denied = record(
        1, AccessDenied(scope="keyledger:admin", attempts=3), subject="access:account:account:a@b"
    )
    assert row(compared(denied), {})["about"] == "keyledger:admin"
    assert row(compared(record(2, subject="sign-in:a@b")), {})["about"] == "a@b"


def test_the_page_requires_a_session_and_the_audit_read_scope(client: FlaskClient) -> None:
    assert client.get("/audit").status_code == 303
    with client.session_transaction() as session:
        session["account"] = "eve"
    assert client.get("/audit").status_code == 403
