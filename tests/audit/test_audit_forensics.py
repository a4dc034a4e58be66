"""Key forensics: point-in-time verdicts and leaked-key look-ups, by API and on the pages."""

import json
import re
import secrets
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Blueprint, Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from redis import Redis

from services.audit.export.service import Exports
from services.audit.ingest.job import catch_up
from services.audit.log.store import AuditLog
from services.audit.status import AuditStatus
from services.audit.web.register import register
from services.keys.commands import KeyCommands
from services.keys.forensics import LedgerForensics
from services.keys.model.key import ChangeKey
from services.keys.model.token import ApiKey, mint_again
from services.keys.queries import Keys
from services.keys.read_model.generations import Views
from services.keys.verification.usage import Usage
from shared.clock import now_ms, parse_rfc3339, rfc3339
from shared.eventstore.envelope import Request
from shared.eventstore.ledger import LOG, Ledger
from shared.identity import ADMIN, AUDIT_READ, KEYS_READ, Principal, UnauthenticatedError
from shared.service.components import new_id
from shared.web.access import Access
from shared.web.app import create_app
from shared.web.server.limits import Limits
from tests.support.principals import new_key

CALLERS = {"ann": ("default", AUDIT_READ), "bob": ("other", ADMIN), "eve": ("default", KEYS_READ)}
REQUEST = Request(id="r-1", ip="192.0.2.7", user_agent="curl/8")
OFF, ON = ChangeKey(enabled=False, reason="leaked"), ChangeKey(enabled=True)


def caller(name: str) -> Principal | None:
    if name not in CALLERS:
        return None
    workspace, scope = CALLERS[name]
    return Principal(kind="account", id=name, label=name, workspace=workspace, scopes=frozenset({scope}))


def authenticate(token: str) -> Principal:
    principal = caller(token)
    if principal is None:
        raise UnauthenticatedError("Who is that?")
    return principal


OWNER = Principal(
    kind="account", id="account:o", label="Olga & Co", workspace="default", scopes=frozenset({ADMIN})
)


@pytest.fixture
def commands(ledger: Ledger) -> KeyCommands:
    return KeyCommands(ledger, "kl", secrets.randbelow, new_id, now_ms)


@pytest.fixture
def usage(store: Redis) -> Usage:
    return Usage(store)


@pytest.fixture
def client(commands: KeyCommands, store: Redis, usage: Usage, audit_status: AuditStatus) -> FlaskClient:
    app, api = create_app(
        secret_key="secret",
        sessions=SecureCookieSessionInterface(),
        access=Access(authenticate, lambda name, _: caller(name), lambda *_: None),
        home="audit.entries_page",
        limits=Limits(None),
    )
    app.config["WTF_CSRF_ENABLED"] = False
    forensics = LedgerForensics(Keys(commands, Views(store)), usage)
    register(app, api, audit_status, forensics, Mock(Exports))
    _add_accounts(app)
    return app.test_client()


def _add_accounts(app: Flask) -> None:
    accounts = Blueprint("accounts", __name__)
    accounts.add_url_rule("/sign-in", "sign_in", lambda: "")
    accounts.add_url_rule("/sign-out", "sign_out", lambda: "", methods=["POST"])
    app.register_blueprint(accounts)


@pytest.fixture
def page(client: FlaskClient) -> FlaskClient:
    with client.session_transaction() as session:
        session["account"] = "ann"
    return client


def created(commands: KeyCommands, owner: Principal = OWNER, **fields: Any) -> ApiKey:
    done = commands.create(owner, new_key(**{"name": "My <Web> App"} | fields), REQUEST)
    assert done.api_key
    return done.api_key


def bearer(who: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {who}"}


def verdict(client: FlaskClient, who: str = "ann", **query: Any) -> Any:
    return client.get("/v1/audit/verdict", query_string=query, headers=bearer(who))


def look_up(client: FlaskClient, body: object, who: str = "ann") -> Any:
    return client.post("/v1/audit/lookup", json=body, headers=bearer(who))


def test_the_verdict_reports_validity_and_its_cause(client: FlaskClient, commands: KeyCommands) -> None:
    key = created(commands, scopes=("orders:read",))
    off = commands.change(OWNER, key.id, OFF, REQUEST)
    at = rfc3339(off.key.updated_at)
    assert verdict(client, key_id=key.id, at=2).json == {
        "valid": False,
        "code": "DISABLED",
        "words": f"No: Olga & Co disabled it at {at[:10]} {at[11:-1]} UTC, for: leaked.",
        "at": at,
        "key": {
            "id": key.id,
            "name": "My <Web> App",
            "scopes": ["orders:read"],
            "expires_at": None,
            "enabled": False,
            "revoked": False,
        },
        "cause": {
            "position": 2,
            "at": at,
            "type": "KeyToggled",
            "actor": "Olga & Co",
            "actor_kind": "account",
        },
        "earlier_secret_until": None,
    }
    assert verdict(client, key_id=key.id, at=at).json["code"] == "DISABLED"
    assert verdict(client, key_id=key.id, at=1).json["valid"] is True
    before = rfc3339(off.key.created_at - 1)
    young = verdict(client, key_id=key.id, at=before).json
    assert (young["code"], young["key"], young["cause"]["position"]) == ("NOT_FOUND", None, 1)


def test_scopes_are_parsed_as_in_forward_auth(client: FlaskClient, commands: KeyCommands) -> None:
    key = created(commands, scopes=("a", "b", "c"))

    def code(query: str) -> str:
        answer = client.get(f"/v1/audit/verdict?key_id={key.id}&at=1&{query}", headers=bearer("ann"))
        told: str = answer.json["code"]  # type: ignore[index]
        return told

    for good in ("", "scopes=a", "scopes=a,b", "scopes=a+b,+c"):
        assert code(good) == "VALID", good
    for bad in ("scopes=d", "scopes=a,d", "scopes=A", "scopes=a;b", "scopes=%00"):
        assert code(bad) == "INSUFFICIENT_SCOPES", bad


def test_a_repeated_field_in_a_json_body_is_rejected(client: FlaskClient) -> None:
    body = b'{"api_key":"x","api_\\u006bey":"y"}'
    answer = client.post(
        "/v1/audit/lookup", data=body, content_type="application/json", headers=bearer("ann")
    )
    assert answer.status_code == 422
    assert answer.json
    assert answer.json["errors"] == [{"field": "api_key", "message": "It is repeated. Send it once."}]


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ({"at": 1}, "key_id", "Enter a key ID"),
        ({"key_id": "", "at": 1}, "key_id", "Enter a key ID"),
        ({"key_id": "k"}, "at", "Enter a time."),
        ({"key_id": "k", "at": ""}, "at", "like 2026-11-23T18:59:21.123Z. Or a position"),
        ({"key_id": "k", "at": "2026-11-23T18:59"}, "at", "like 2026-11-23T18:59:21.123Z. Or a position"),
        ({"key_id": "OWN", "at": "2999-01-01T00:00:00Z"}, "at", "in the future"),
        ({"key_id": "OWN", "at": 999}, "at", "not yet there"),
        ({"key_id": "k", "at": 1, "scope": "a"}, "scope", "Unknown field."),
        ({"key_id": "k", "at": [1, 1]}, "at", "It is repeated."),
        ({"key_id": ["k", "l"], "at": 1}, "key_id", "It is repeated."),
        ({"key_id": "k", "at": 1, "scopes": ["a", "b"]}, "scopes", "It is repeated."),
        ({"key_id": "k", "at": 1, "scopes": ""}, "scopes", "It is empty."),
        ({"key_id": "k", "at": 1, "scopes": ", "}, "scopes", "It is empty."),
    ],
)
def test_an_invalid_field_is_named_with_its_rule(
    client: FlaskClient, commands: KeyCommands, query: dict[str, Any], field: str, words: str
) -> None:
    key = created(commands)
    if query.get("key_id") == "OWN":
        query = query | {"key_id": key.id}
    answer = verdict(client, **query)
    assert answer.status_code == 422
    assert [(row["field"], words in row["message"]) for row in answer.json["errors"]] == [(field, True)]


def test_a_key_of_another_workspace_is_reported_as_not_found(
    client: FlaskClient, commands: KeyCommands
) -> None:
    key = created(commands)
    same = {"X-Request-Id": "same"} | bearer("bob")
    for at in (1, 999, "2999-01-01T00:00:00Z"):
        theirs, none = (
            client.get(f"/v1/audit/verdict?key_id={key_id}&at={at}", headers=same)
            for key_id in (key.id, "000000000000")
        )
        assert (theirs.status_code, theirs.data) == (404, none.data)
    forged = mint_again("kl", key.id, secrets.randbelow).reveal()
    theirs, none = (
        client.post("/v1/audit/lookup", json={"api_key": token}, headers=same)
        for token in (key.reveal(), forged)
    )
    assert (theirs.status_code, theirs.data) == (404, none.data)


def test_a_partly_unreadable_history_answers_503(
    client: FlaskClient, page: FlaskClient, commands: KeyCommands, store: Redis
) -> None:
    key = created(commands)
    stored = commands.ledger.read(0, 1)[0].body
    strange = stored.replace(b'"KeyCreated"', b'"KeyBlessed"').replace(b'"version":1', b'"version":2')
    store.xadd(LOG, {"at": now_ms(), "event": strange}, id="0-*")
    store.rpush(f"{{kl:0}}:subject:key:{key.id}", 2)
    answers = [
        verdict(client, key_id=key.id, at=1),
        look_up(client, {"api_key": key.reveal()}),
        page.get(f"/audit/verdict?key_id={key.id}&at=1"),
        page.post("/audit/lookup", data={"api_key": key.reveal()}),
    ]
    for answer in answers:
        assert answer.status_code == 503
        assert "Update Keyledger." in answer.text
        assert key.reveal() not in answer.text


def test_forensics_requires_the_audit_read_scope(client: FlaskClient) -> None:
    for who, status in (("nobody", 401), ("eve", 403)):
        assert verdict(client, who, key_id="k", at=1).status_code == status
        assert look_up(client, {"api_key": "k"}, who).status_code == status
    with client.session_transaction() as session:
        session["account"] = "eve"
    for path in ("/audit/verdict", "/audit/lookup"):
        assert client.get(path).status_code == 403
        assert client.post(path).status_code == 403


def test_looking_up_a_leaked_key_returns_its_use_and_its_audit_entries(
    client: FlaskClient, commands: KeyCommands, usage: Usage, sqlite_log: AuditLog
) -> None:
    key = created(commands, scopes=(ADMIN,))
    other = created(commands)
    itself = Principal(
        kind="key", id=key.id, label="My <Web> App", workspace="default", scopes=frozenset({ADMIN})
    )
    impostor = Principal(
        kind="account", id="account:x", label=key.id, workspace="default", scopes=frozenset({ADMIN})
    )
    commands.change(itself, other.id, OFF, Request(id="r-2", ip="203.0.113.9", user_agent=None))
    commands.change(impostor, other.id, ON, REQUEST)
    for code in ("VALID", "VALID", "DISABLED"):
        usage.note((key.id, code, now_ms()))
    usage.flush()
    catch_up(sqlite_log, commands.ledger)

    answer = look_up(client, {"api_key": key.reveal()})
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    found = answer.json
    born = commands.ledger.history(f"key:{key.id}")[0].at
    assert found["key"] == {
        "id": key.id,
        "name": "My <Web> App",
        "workspace": "default",
        "created_at": rfc3339(born),
        "created_by": "Olga & Co",
        "created_by_kind": "account",
        "expires_at": None,
        "status": "active",
        "secret": {"standing": "present", "since": rfc3339(born), "replaced_at": None, "good_until": None},
        "good": True,
    }
    [day] = found["use"]["days"]
    assert (day["accepted"], day["refused"], day["reasons"]) == (2, 1, {"DISABLED": 1})
    assert now_ms() - parse_rfc3339(found["use"]["last_used_at"]) < 60_000
    assert [(entry["position"], entry["request"]["ip"]) for entry in found["entries"]] == [(3, "203.0.113.9")]


def test_a_replaced_secret_is_reported_as_replaced(client: FlaskClient, commands: KeyCommands) -> None:
    key = created(commands)
    commands.rotate(OWNER, key.id, 0, REQUEST)
    rotated_at = rfc3339(commands.ledger.history(f"key:{key.id}")[1].at)
    found = look_up(client, {"api_key": key.reveal()}).json["key"]
    assert (found["good"], found["status"]) == (False, "active")
    assert (found["secret"]["standing"], found["secret"]["replaced_at"]) == ("replaced", rotated_at)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "api_key"),
        ({"api_key": None}, "api_key"),
        ({"api_key": ["TOKEN"]}, "api_key"),
        ({"api_key": {"TOKEN": 1}}, "api_key"),
        ({"api_key": "TOKEN", "key": 1}, "key"),
    ],
)
def test_a_rejected_look_up_names_the_field_and_does_not_echo_the_key(
    client: FlaskClient, commands: KeyCommands, body: dict[str, Any], field: str
) -> None:
    token = created(commands).reveal()
    answer = look_up(client, json.loads(json.dumps(body).replace("TOKEN", token)))
    assert answer.status_code == 422
    assert [row["field"] for row in answer.json["errors"]] == [field]
    assert token not in answer.text


@pytest.mark.parametrize("text", ["TOKEN!", " TOKEN", "TOKE", "nonsense", "", "\ud800"])
def test_an_incomplete_key_is_not_found_and_not_echoed(
    client: FlaskClient, commands: KeyCommands, text: str
) -> None:
    token = created(commands).reveal()
    answer = look_up(client, {"api_key": text.replace("TOKEN", token).replace("TOKE", token[:-1])})
    assert answer.status_code == 404
    assert "mistyped or cut off" in answer.json["detail"]
    assert token[:-1] not in answer.text


def test_look_ups_and_verdicts_record_no_event(
    client: FlaskClient, page: FlaskClient, commands: KeyCommands
) -> None:
    key = created(commands)
    assert look_up(client, {"api_key": key.reveal()}).status_code == 200
    assert page.post("/audit/lookup", data={"api_key": key.reveal()}).status_code == 200
    assert verdict(client, key_id=key.id, at=1).status_code == 200
    assert commands.ledger.head().position == 1


def test_the_endpoints_are_in_the_openapi_description(client: FlaskClient) -> None:
    paths = client.get("/openapi.json").json["paths"]  # type: ignore[index]
    asked = paths["/v1/audit/verdict"]["get"]
    assert {"key_id", "at", "scopes"} <= {parameter["name"] for parameter in asked["parameters"]}
    for operation in (asked, paths["/v1/audit/lookup"]["post"]):
        assert {"200", "401", "403", "404", "422", "503"} <= set(operation["responses"])


def test_the_verdict_form_redirects_to_a_shareable_url(page: FlaskClient, commands: KeyCommands) -> None:
    key = created(commands, scopes=("a",))
    commands.change(OWNER, key.id, OFF, REQUEST)
    asked = {"key_id": f" {key.id} ", "at": "2", "scopes": ""}
    answer = page.post("/audit/verdict", data=asked)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/audit/verdict?key_id={key.id}&at=2")
    shown = page.get(answer.headers["Location"]).text
    assert "No: Olga &amp; Co disabled it at" in shown
    assert "My &lt;Web&gt; App" in shown
    [link] = re.findall(r'href="(/audit\?key_id=[^"]+)"', shown)
    entries = page.get(link.replace("&amp;", "&"))
    assert entries.status_code == 200


def test_times_in_the_form_are_utc(page: FlaskClient, commands: KeyCommands) -> None:
    key = created(commands)
    born = rfc3339(commands.ledger.history(f"key:{key.id}")[0].at).removesuffix("Z")
    for at, words in ((born, "Yes: "), (born[:16], "exist yet"), ("2001-01-01T00:00", "No: ")):
        assert words in page.get(f"/audit/verdict?key_id={key.id}&at={at}").text


@pytest.mark.parametrize(
    ("key_id", "at", "status", "words"),
    [
        ("OWN", "soon", 422, "must be a time like"),
        ("OWN", "", 422, "must be a time like"),
        ("OWN", "999", 422, "not yet there"),
        ("", "1", 422, "Enter a key ID"),
        ("000000000000", "1", 404, "Your workspace has no key with this ID."),
    ],
)
def test_the_page_shows_errors_and_keeps_the_entered_values(
    page: FlaskClient, commands: KeyCommands, key_id: str, at: str, status: int, words: str
) -> None:
    key = created(commands)
    typed = key.id if key_id == "OWN" else key_id
    answer = page.get("/audit/verdict", query_string={"key_id": typed, "at": at, "scopes": "kept:scope"})
    assert answer.status_code == status
    assert words in answer.text
    assert 'value="kept:scope"' in answer.text
    assert f'value="{typed}"' in answer.text


@pytest.mark.parametrize("field", ["key_id", "at", "scopes"])
def test_a_key_pasted_into_the_verdict_form_appears_in_no_url_or_response(
    page: FlaskClient, commands: KeyCommands, field: str
) -> None:
    key = created(commands)
    asked = {"key_id": key.id, "at": "1", "scopes": "a"} | {field: key.reveal()}
    for answer in (
        page.post("/audit/verdict", data=asked),
        page.get("/audit/verdict", query_string=asked),
    ):
        assert answer.status_code == 422
        assert "This looks like an API key. Look it up instead" in answer.text
        assert key.reveal() not in answer.text
        assert "Location" not in answer.headers


def test_the_look_up_page_identifies_a_leaked_key_without_showing_it(
    page: FlaskClient, commands: KeyCommands, caplog: pytest.LogCaptureFixture
) -> None:
    key = created(commands, expires_at=now_ms() + 60_000)
    later = mint_again("kl", key.id, secrets.randbelow)
    words = {
        key.reveal(): (200, "Anyone who has it can use the key"),
        f" {key.reveal()}\n": (200, "Anyone who has it can use the key"),
        later.reveal(): (404, "a key of your workspace, and never was"),
        key.reveal()[:-1]: (422, "mistyped or cut off"),
        "": (422, "mistyped or cut off"),
    }
    for token, (status, told) in words.items():
        answer = page.post("/audit/lookup", data={"api_key": token})
        assert (answer.status_code, told in answer.text) == (status, True), told
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Location" not in answer.headers
        assert not token or token.strip() not in answer.text
        assert not token or token.strip() not in caplog.text


def test_the_look_up_page_shows_the_state_of_a_secret(page: FlaskClient, commands: KeyCommands) -> None:
    key = created(commands)

    def told() -> str:
        return page.post("/audit/lookup", data={"api_key": key.reveal()}).text

    commands.rotate(OWNER, key.id, 3600, REQUEST)
    assert "still in its grace period" in told()
    commands.change(OWNER, key.id, OFF, REQUEST)
    assert "disabled, so this secret is rejected" in told()
    commands.change(OWNER, key.id, ON, REQUEST)
    commands.rotate(OWNER, key.id, 0, REQUEST)
    assert "This secret was rotated and is rejected." in told()
    commands.revoke(OWNER, key.id, "leaked", REQUEST)
    assert "Revoked" in told()


def test_the_look_up_page_shows_the_keys_actions_and_a_lagging_log(
    page: FlaskClient, commands: KeyCommands, sqlite_log: AuditLog
) -> None:
    key = created(commands)
    itself = Principal(kind="key", id=key.id, label="x", workspace="default", scopes=frozenset({ADMIN}))

    def told() -> str:
        return page.post("/audit/lookup", data={"api_key": key.reveal()}).text

    made = created(commands, itself, name="Made by the thief")
    assert "2 events are not in the audit log yet" in told()
    catch_up(sqlite_log, commands.ledger)
    shown = told()
    assert "in the audit log yet" not in shown
    assert "Key created" in shown
    assert made.id in shown
    assert "from 192.0.2.7" in shown
    assert f"/audit?actor={key.id}" in shown


def test_the_look_up_form_requires_a_csrf_token(page: FlaskClient, commands: KeyCommands) -> None:
    key = created(commands)
    page.application.config["WTF_CSRF_ENABLED"] = True
    answer = page.post("/audit/lookup", data={"api_key": key.reveal()})
    assert answer.status_code == 400
    assert key.reveal() not in answer.text
