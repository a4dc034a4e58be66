"""The calls, from another service's side: real HTTP, a real store, a real queue."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from services.keys.key_material import parse
from tests.real import Service, until

Json = dict[str, Any]


class Caller:
    """A platform service with a key."""

    def __init__(self, service: Service, token: str | None) -> None:
        self._url = service.url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, path: str, headers: Json | None = None, **body: Any) -> requests.Response:
        return requests.request(
            method, self._url + path, headers=self._headers | (headers or {}), timeout=10, **body
        )


@pytest.fixture(scope="module")
def admin(service: Service) -> Caller:
    return Caller(service, service.key("keyledger:admin"))


def position(answer: requests.Response) -> Json:
    return {"X-Ledger-Position": answer.headers["X-Ledger-Position"]}


def create(caller: Caller, **fields: Any) -> Json:
    answer = caller("POST", "/v1/keys", json=fields)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def problem(answer: requests.Response, status: int) -> Json:
    """What a refusal says, after what every refusal must have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: Json = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"].endswith(".")
    assert body["request_id"] == answer.headers["X-Request-Id"]
    return body


def test_the_life_of_a_key_is_told_by_list_history_and_audit_log(service: Service, admin: Caller) -> None:
    answer = admin(
        "POST", "/v1/keys", json={"name": "Billing", "description": "Nightly", "scopes": ["orders:read"]}
    )
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert parse(made["api_key"]).hint == made["hint"]
    assert (made["status"], made["enabled"], made["version"], made["scopes"]) == (
        "active",
        True,
        1,
        ["orders:read"],
    )

    listed = admin("GET", "/v1/keys", position(answer)).json()["keys"]
    assert listed[0] == {name: value for name, value in made.items() if name != "api_key"}

    answer = admin("PATCH", f"/v1/keys/{made['id']}", json={"enabled": False, "reason": "rotated"})
    assert (answer.status_code, answer.json()["status"], answer.headers["ETag"]) == (200, "inactive", '"2"')
    read = admin("GET", f"/v1/keys/{made['id']}", position(answer))
    assert (read.json()["enabled"], read.headers["ETag"]) == (False, '"2"')

    history = admin("GET", f"/v1/keys/{made['id']}/history").json()
    assert [event["type"] for event in history["events"]] == ["KeyCreated", "KeyToggled"]
    assert history["events"][1]["data"] == {"enabled": False, "reason": "rotated"}
    assert history["next_cursor"] is None

    def entries() -> list[Json]:
        found: list[Json] = admin("GET", f"/v1/audit/entries?key_id={made['id']}").json()["entries"]
        return found

    until(lambda: len(entries()) == 2, within=2, what="the audit log's two entries")
    newest = entries()[0]
    assert newest["type"] == "KeyToggled"
    assert newest["actor"]["kind"] == "key"
    assert newest["actor"]["label"] == "caller"
    assert newest["at"] == history["events"][1]["at"]
    assert {"field": "enabled", "before": True, "after": False} in newest["changes"]
    checked = service.run("audit", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_switching_to_what_is_so_already_is_no_event(admin: Caller) -> None:
    made = create(admin, name="Twice")
    for _ in range(2):
        assert admin("PATCH", f"/v1/keys/{made['id']}", json={"enabled": False}).json()["version"] == 2
    assert len(admin("GET", f"/v1/keys/{made['id']}/history").json()["events"]) == 2


def test_a_repeated_create_gives_the_same_key_without_the_token(admin: Caller) -> None:
    sent = {"headers": {"Idempotency-Key": "order-17"}, "json": {"name": "Once"}}
    first, again = admin("POST", "/v1/keys", **sent), admin("POST", "/v1/keys", **sent)
    assert again.status_code == 201
    assert again.json()["id"] == first.json()["id"]
    assert "api_key" not in again.json()
    assert "stored nowhere" in again.json()["notice"]
    problem(admin("POST", "/v1/keys", {"Idempotency-Key": "order-17"}, json={"name": "Other"}), 422)


def test_a_stale_if_match_changes_nothing(admin: Caller) -> None:
    made = create(admin, name="Matched")
    path = f"/v1/keys/{made['id']}"
    assert admin("PATCH", path, {"If-Match": '"1"'}, json={"enabled": False}).status_code == 200
    problem(admin("PATCH", path, {"If-Match": '"1"'}, json={"enabled": True}), 412)
    assert admin("GET", f"{path}/history").json()["events"][-1]["data"]["enabled"] is False


def test_pages_follow_each_other_without_a_gap(service: Service) -> None:
    service.run(
        "account",
        "add",
        "pages@example.org",
        "--role",
        "owner",
        "--workspace",
        "pages",
        "--password-stdin",
        stdin="a long password",
    )
    caller = Caller(service, json_key(service, "pages"))
    made = [create(caller, name=f"Key {number}")["id"] for number in range(7)]
    newest = position(caller("GET", f"/v1/keys/{made[-1]}?after={2**20}"))
    seen: list[str] = []
    page: Json = {"next_cursor": ""}
    while page["next_cursor"] is not None:
        cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        page = caller("GET", f"/v1/keys?limit=3{cursor}", newest).json()
        seen += [key["id"] for key in page["keys"]]
    assert seen[:7] == made[::-1]


def json_key(service: Service, workspace: str) -> str:
    made = service.run(
        "key", "create", "caller", "--scope", "keyledger:admin", "--workspace", workspace, "--json"
    )
    token: str = json.loads(made.stdout)["api_key"]
    return token


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({}, "name", "Enter a name"),
        ({"name": ""}, "name", "may not be empty"),
        ({"name": " \t "}, "name", "may not be empty"),
        ({"name": None}, "name", "may not be null"),
        ({"name": 7}, "name", "must be a text"),
        ({"name": "n" * 101}, "name", "100 characters at most"),
        ({"name": "a\u0000b"}, "name", "control character U+0000"),
        ({"name": "a\ud800b"}, "name", "control character U+D800"),
        ({"name": "n", "description": "d" * 501}, "description", "500 characters at most"),
        ({"name": "n", "scopes": ["Not A Scope"]}, "scopes", "is no scope"),
        ({"name": "n", "scopes": ["keyledger:everything"]}, "scopes", "is unknown"),
        ({"name": "n", "scopes": "x"}, "scopes", "list"),
        ({"name": "n", "expires_at": "tomorrow"}, "expires_at", "must be a time like"),
        ({"name": "n", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at", "in the future"),
        ({"name": "n", "workspace": "other"}, "workspace", "Unknown field"),
    ],
)
def test_a_bad_field_is_named_with_its_rule_and_nothing_is_written(
    admin: Caller, body: Json, field: str, rule: str
) -> None:
    before = admin("GET", "/v1/keys?limit=1").json()
    refused = problem(admin("POST", "/v1/keys", json=body), 422)
    assert [(row["field"], rule in row["message"]) for row in refused["errors"]] == [(field, True)], refused
    assert admin("GET", "/v1/keys?limit=1").json() == before


def test_a_body_that_is_no_json_is_refused(admin: Caller) -> None:
    json_type = {"Content-Type": "application/json"}
    problem(admin("POST", "/v1/keys", json_type, data=b'{"name": '), 400)
    problem(admin("POST", "/v1/keys", json_type, data=b"\xff"), 400)
    problem(admin("POST", "/v1/keys", {"Content-Type": "text/plain"}, data=b'{"name": "n"}'), 415)
    problem(admin("POST", "/v1/keys", data={"name": "n"}), 415)
    problem(admin("POST", "/v1/keys", json={"name": "n", "description": "d" * 70_000}), 413)


@pytest.mark.parametrize("key_id", ["000000000000", "x", "%2e%2e", "key:1"])
def test_an_unknown_key_is_not_found(admin: Caller, key_id: str) -> None:
    for method, path in (("GET", ""), ("PATCH", ""), ("GET", "/history")):
        body = {"json": {"enabled": True}} if method == "PATCH" else {}
        problem(admin(method, f"/v1/keys/{key_id}{path}", **body), 404)


def test_other_addresses_and_methods_are_refused_in_the_same_form(admin: Caller) -> None:
    problem(admin("GET", "/v1/nothing"), 404)
    assert "PATCH" in admin("PUT", "/v1/keys/000000000000", json={}).headers["Allow"]


def test_callers_without_a_good_key_are_told_why(service: Service, admin: Caller) -> None:
    off = create(admin, name="Off", scopes=["keyledger:admin"])
    admin("PATCH", f"/v1/keys/{off['id']}", json={"enabled": False})
    unknown = parse(off["api_key"])
    for token, words in (
        (None, "Authorization: Bearer"),
        ("nonsense", "mistyped"),
        (off["api_key"][:-1] + ("1" if off["api_key"].endswith("0") else "0"), "mistyped"),
        (off["api_key"], "switched off"),
    ):
        answer = Caller(service, token)("GET", "/v1/keys")
        assert words in problem(answer, 401)["detail"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert unknown.reveal() not in answer.text


def test_a_scope_that_is_lacking_is_named(service: Service, admin: Caller) -> None:
    made = create(admin, name="Reader", scopes=["keyledger:keys.read"])
    reader, scopeless = Caller(service, made["api_key"]), Caller(service, service.key())
    assert reader("GET", "/v1/keys").status_code == 200
    assert "keyledger:keys.write" in problem(reader("POST", "/v1/keys", json={"name": "n"}), 403)["detail"]
    assert "keyledger:audit.read" in problem(reader("GET", "/v1/audit/entries"), 403)["detail"]
    assert "keyledger:keys.read" in problem(scopeless("GET", "/v1/keys"), 403)["detail"]


def test_nobody_hands_on_a_scope_that_they_do_not_hold(service: Service, admin: Caller) -> None:
    writer = Caller(service, create(admin, name="Writer", scopes=["keyledger:keys.write"])["api_key"])
    refused = writer("POST", "/v1/keys", json={"name": "n", "scopes": ["keyledger:admin"]})
    assert "keyledger:admin" in problem(refused, 403)["detail"]


def test_another_workspaces_key_is_as_unknown_as_none(service: Service, admin: Caller) -> None:
    foreign = Caller(service, json_key(service, "elsewhere"))
    made = create(admin, name="Ours")
    for method, path in (("GET", ""), ("PATCH", ""), ("GET", "/history")):
        body = {"json": {"enabled": False}} if method == "PATCH" else {}
        theirs = problem(foreign(method, f"/v1/keys/{made['id']}{path}", **body), 404)
        none = problem(foreign(method, f"/v1/keys/000000000000{path}", **body), 404)
        assert theirs["detail"] == none["detail"]
    assert all(key["id"] != made["id"] for key in foreign("GET", "/v1/keys").json()["keys"])


def test_a_request_id_is_taken_up_and_told_by_the_event(admin: Caller) -> None:
    answer = admin("POST", "/v1/keys", {"X-Request-Id": "checkout-42"}, json={"name": "Traced"})
    assert answer.headers["X-Request-Id"] == "checkout-42"
    events = admin("GET", f"/v1/keys/{answer.json()['id']}/history").json()["events"]
    assert events[0]["request"]["id"] == "checkout-42"


def test_writers_read_their_writes_while_all_of_them_write(admin: Caller) -> None:
    def write_and_read(writer: int) -> None:
        for number in range(25):
            made = admin("POST", "/v1/keys", json={"name": f"{writer}/{number}"})
            key = made.json()
            listed = admin("GET", "/v1/keys?limit=100", position(made))
            assert "X-Ledger-Behind" not in listed.headers
            assert key["id"] in [row["id"] for row in listed.json()["keys"]]
            off = admin("PATCH", f"/v1/keys/{key['id']}", json={"enabled": False})
            seen = admin("GET", f"/v1/keys/{key['id']}", position(off))
            assert "X-Ledger-Behind" not in seen.headers
            assert (seen.json()["status"], seen.headers["ETag"]) == ("inactive", '"2"')

    with ThreadPoolExecutor(8) as writers:
        assert [*writers.map(write_and_read, range(8))] == [None] * 8


def test_idle_connections_keep_nobody_waiting(service: Service, admin: Caller) -> None:
    idle = [requests.Session() for _ in range(100)]
    for session in idle:
        session.get(f"{service.url}/healthz", timeout=5)
    assert admin("GET", "/v1/keys").status_code == 200
    for session in idle:
        session.close()


def test_the_projection_tells_how_far_it_is(service: Service, admin: Caller) -> None:
    made = admin("POST", "/v1/keys", json={"name": "Measured"})
    head = int(made.headers["X-Ledger-Position"])
    admin("GET", "/v1/keys", position(made))
    told = json.loads(service.run("projector", "status", "--json").stdout)
    assert (told["head"], told["position"], told["lag_events"], told["parked"]) == (head, head, 0, {})
    assert "No key is parked" in service.run("projector", "retry").stdout
    figures = requests.get(f"{service.url}/metrics", timeout=5).text
    assert f"keyledger_ledger_position {head}.0" in figures
    assert "keyledger_projector_lag_events 0.0" in figures
    assert "keyledger_projector_lag_seconds 0.0" in figures
    assert "keyledger_projector_parked_keys 0.0" in figures
