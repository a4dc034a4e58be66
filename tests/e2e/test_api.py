"""The API as another service uses it: real HTTP, a real store, a real queue."""

import gzip
import http.client
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from services.keys.model.token import parse
from shared.web.errors.problems import Refusal
from tests.support.processes import until
from tests.support.service import Service

Json = dict[str, Any]


class Caller:
    """A platform service with a key."""

    def __init__(self, service: Service, token: str | None) -> None:
        self._url = service.url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, path: str, headers: Json | None = None, **body: Any) -> requests.Response:
        return requests.request(
            method, self._url + path, headers=self._headers | (headers or {}), timeout=60, **body
        )


@pytest.fixture(scope="module")
def admin(service: Service) -> Caller:
    return Caller(service, service.key("keyledger:admin"))


def position(answer: requests.Response) -> Json:
    return {"X-Ledger-Position": answer.headers["X-Ledger-Position"]}


def current(caller: Caller, *request: Any, **body: Any) -> requests.Response:
    """Repeats a request while the service is busy or its views are behind, as on a slow machine."""
    deadline = time.monotonic() + 60
    while True:
        answer = caller(*request, **body)
        pause = answer.headers.get("Retry-After")
        if pause is None and "X-Ledger-Behind" not in answer.headers:
            return answer
        assert time.monotonic() < deadline, answer.text
        time.sleep(int(pause or 0))


def create(caller: Caller, **fields: Any) -> Json:
    answer = caller("POST", "/v1/keys", json=fields)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def problem(answer: requests.Response, status: int) -> Json:
    """Returns the body of a refusal, after checking what every refusal must have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: Json = answer.json()
    assert body["status"] == status
    assert Refusal.of(body["code"]).title == body["title"]
    assert body["type"] == f"/docs/problems#{body['code']}"
    assert body["detail"].endswith(".")
    assert body["request_id"] == answer.headers["X-Request-Id"]
    return body


def test_the_life_of_a_key_appears_in_list_history_and_audit_log(service: Service, admin: Caller) -> None:
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

    until(lambda: len(entries()) == 2, what="the audit log's two entries")
    newest = entries()[0]
    assert newest["type"] == "KeyToggled"
    assert newest["actor"]["kind"] == "key"
    assert newest["actor"]["label"] == "caller"
    assert newest["at"] == history["events"][1]["at"]
    assert {"field": "enabled", "before": True, "after": False} in newest["changes"]
    checked = service.run("audit", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_setting_the_current_status_records_no_event(admin: Caller) -> None:
    made = create(admin, name="Twice")
    for _ in range(2):
        assert admin("PATCH", f"/v1/keys/{made['id']}", json={"enabled": False}).json()["version"] == 2
    assert len(admin("GET", f"/v1/keys/{made['id']}/history").json()["events"]) == 2


def test_a_repeated_create_returns_the_same_key_without_the_token(admin: Caller) -> None:
    sent = {"headers": {"Idempotency-Key": "order-17"}, "json": {"name": "Once"}}
    first, again = admin("POST", "/v1/keys", **sent), admin("POST", "/v1/keys", **sent)
    assert again.status_code == 201
    assert again.json()["id"] == first.json()["id"]
    assert "api_key" not in again.json()
    assert "stored nowhere" in again.json()["notice"]
    problem(admin("POST", "/v1/keys", {"Idempotency-Key": "order-17"}, json={"name": "Other"}), 422)


def test_the_fast_path_and_flask_create_keys_identically(admin: Caller) -> None:
    """The plainest form is answered by the fast path, the others by Flask."""
    said = {
        "name": " Größe ",
        "description": "a\nb",
        "scopes": ["b", "a", "b"],
        "expires_at": "2031-01-01T00:00Z",
    }
    plain, other = "application/json", "application/json; charset=utf-8"
    made, headers = [], []
    for kind in (plain, other):
        sent = {
            "Content-Type": kind,
            "Idempotency-Key": f"as {kind}".replace(" ", "-"),
            "User-Agent": "checkout",
        }
        first, again = (admin("POST", "/v1/keys", sent, data=json.dumps(said)) for _ in range(2))
        across = admin("POST", "/v1/keys", sent | {"Content-Type": other}, data=json.dumps(said))
        assert (first.status_code, again.status_code) == (201, 201), first.text
        assert again.json() == across.json()
        assert first.json().keys() - again.json().keys() == {"api_key"}
        history = admin("GET", f"/v1/keys/{first.json()['id']}/history").json()["events"]
        assert history[0]["request"] == {
            "id": first.headers["X-Request-Id"],
            "ip": "127.0.0.1",
            "user_agent": "checkout",
        }
        headers.append(set(first.headers))
        made.append(
            {
                name: value
                for name, value in first.json().items()
                if name in said or name in {"version", "status"}
            }
        )
    assert made[0] == made[1]
    assert headers[0] == headers[1]
    assert made[0] == {
        "name": "Größe",
        "description": "a\nb",
        "scopes": ["b", "a"],
        "expires_at": "2031-01-01T00:00:00.000Z",
        "version": 1,
        "status": "active",
    }


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_the_fast_path_and_flask_refuse_creates_alike_and_count_them_once(tmp_path: Path, kind: str) -> None:
    service = Service(tmp_path / "data", KEYLEDGER_RATE_LIMIT="3/minute")
    service.start()
    try:
        writer, reader = (
            Caller(service, service.key(scope)) for scope in ("keyledger:keys.write", "keyledger:keys.read")
        )

        def ask(caller: Caller, **said: Any) -> requests.Response:
            return caller("POST", "/v1/keys", {"Content-Type": kind}, data=json.dumps(said))

        assert problem(ask(writer), 422)["errors"][0]["field"] == "name"
        assert "keyledger:admin" in problem(ask(writer, name="n", scopes=["keyledger:admin"]), 403)["detail"]
        assert ask(writer, name="n").status_code == 201
        # Each of the two web processes has its own limit.
        answers = [ask(writer, name="n") for _ in range(10)]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert "Too many" in problem(refused[-1], 429)["detail"]
        assert sum(answer.status_code == 201 for answer in answers) <= 3
        answers = [ask(reader, name="n") for _ in range(10)]
        assert {answer.status_code for answer in answers} == {403, 429}
        assert 3 <= sum(answer.status_code == 403 for answer in answers) <= 6
        assert "mistyped" in problem(ask(Caller(service, "nonsense"), name="n"), 401)["detail"]
    finally:
        assert service.stop() == 0


def test_a_key_is_renamed_rotated_and_revoked_under_its_id(admin: Caller) -> None:
    made = create(admin, name="Living", scopes=["orders:read"])
    path = f"/v1/keys/{made['id']}"
    changes = {"name": "Renamed", "description": "d", "scopes": [], "expires_at": "2031-01-01T00:00:00.000Z"}
    changed = admin("PATCH", path, json=changes | {"reason": "tidied"}).json()
    assert {name: changed[name] for name in changes} == changes
    assert admin("PATCH", path, json={"expires_at": None}).json()["expires_at"] is None

    rotated = admin("POST", f"{path}/rotate", {"If-Match": '"3"'}, json={"grace_seconds": 60})
    assert (rotated.status_code, rotated.json()["version"], rotated.headers["ETag"]) == (200, 4, '"4"')
    secret = parse(rotated.json()["api_key"])
    assert secret.id == made["id"]
    assert secret.reveal() != made["api_key"]
    assert rotated.headers["Cache-Control"] == "no-store"

    problem(admin("DELETE", path, {"If-Match": '"3"'}), 412)
    revoked = admin("DELETE", f"{path}?reason=leaked")
    assert (revoked.status_code, revoked.json()["status"], revoked.json()["version"]) == (200, "revoked", 5)
    assert admin("DELETE", path).json() == revoked.json()
    for answer in (
        admin("PATCH", path, json={"enabled": True}),
        admin("POST", f"{path}/rotate"),
    ):
        assert "revoked" in problem(answer, 409)["detail"]
    events = admin("GET", f"{path}/history").json()["events"]
    assert [event["type"] for event in events[1:]] == [
        "KeyDetailsChanged",
        "KeyDetailsChanged",
        "KeyRotated",
        "KeyRevoked",
    ]
    assert events[1]["data"]["after"]["expires_at"] == changes["expires_at"]
    assert events[4]["data"] == {"reason": "leaked"}


def test_a_repeated_rotation_creates_no_second_secret(admin: Caller) -> None:
    made = create(admin, name="Rotated once")
    name = {"Idempotency-Key": "rotation-1"}
    first, again = (admin("POST", f"/v1/keys/{made['id']}/rotate", name) for _ in range(2))
    assert "api_key" in first.json()
    assert again.status_code == 200
    assert "api_key" not in again.json()
    assert "rotate this key" in again.json()["notice"]
    assert again.json()["version"] == first.json()["version"]


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({}, "enabled", "enabled, name, description, scopes, expires_at"),
        ({"reason": "none"}, "enabled", "enabled, name, description, scopes, expires_at"),
        ({"enabled": "true"}, "enabled", "true or false"),
        ({"enabled": None}, "enabled", "may not be null"),
        ({"name": ""}, "name", "Enter a name."),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at", "in the future"),
        ({"hint": "x"}, "hint", "Unknown field"),
    ],
)
def test_an_invalid_change_is_rejected_at_its_field(admin: Caller, body: Json, field: str, rule: str) -> None:
    refused = problem(admin("PATCH", "/v1/keys/000000000000", json=body), 422)
    assert [(row["field"], rule in row["message"]) for row in refused["errors"]] == [(field, True)], refused


@pytest.mark.parametrize("grace", [-1, 2_592_001, "60", 1.5, True, None])
def test_an_invalid_grace_period_is_rejected(admin: Caller, grace: object) -> None:
    refused = problem(admin("POST", "/v1/keys/000000000000/rotate", json={"grace_seconds": grace}), 422)
    assert [row["field"] for row in refused["errors"]] == ["grace_seconds"]


def test_keys_can_be_searched_filtered_sorted_and_paginated(service: Service) -> None:
    caller = Caller(service, service.key("keyledger:admin", workspace="lists"))
    names = [f"Number {number} {('even', 'odd')[number % 2]}" for number in range(6)]
    made = [create(caller, name=name, description="described") for name in names]
    for key in made[:2]:
        last = caller("DELETE", f"/v1/keys/{key['id']}")

    def listed(query: str) -> list[str]:
        answer = caller("GET", f"/v1/keys?{query}", position(last))
        assert answer.status_code == 200, answer.text
        return [key["name"] for key in answer.json()["keys"]]

    assert listed("search=NUMBER&sort=created_at") == names
    assert listed("search=odd+numb&status=active") == [names[5], names[3]]
    assert listed("search=described") == listed("search=umber") == []
    assert listed("status=revoked") == [names[1], names[0]]
    assert listed(f"search={made[4]['id']}") == [names[4]]
    assert listed(f"search={made[4]['id'][:-1]}") == []
    assert listed("status=expired") == []
    assert listed("search=number&sort=-name") == names[::-1]
    assert listed("search=number&sort=-status") == [names[number] for number in (1, 0, 5, 4, 3, 2)]
    by_hint = [key["name"] for key in sorted(made, key=lambda key: key["hint"])]
    assert listed("search=number&sort=hint") == by_hint
    for sort, expected in (("created_at", names), ("-name", names[::-1]), ("hint", by_hint)):
        page = caller("GET", f"/v1/keys?search=number&sort={sort}&limit=4").json()
        assert listed(f"search=number&sort={sort}&cursor={page['next_cursor']}") == expected[4:]
        refused = problem(caller("GET", f"/v1/keys?cursor={page['next_cursor']}"), 422)
        assert [row["field"] for row in refused["errors"]] == ["cursor"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/keys?limit=0", "limit"),
        ("/v1/keys?limit=201", "limit"),
        ("/v1/keys?limit=1_0", "limit"),
        ("/v1/keys?status=gone", "status"),
        ("/v1/keys?sort=scopes", "sort"),
        ("/v1/keys?cursor=x", "cursor"),
        ("/v1/keys?after=-1", "after"),
        (f"/v1/keys?after={'9' * 5_000}", "after"),
        ("/v1/keys?staus=active", "staus"),
        ("/v1/keys/000000000000?when=now", "when"),
        ("/v1/keys/000000000000/history?limit=0", "limit"),
        ("/v1/audit/entries?limit=201", "limit"),
        ("/v1/audit/entries?until=x", "until"),
        ("/v1/audit/entries?who=me", "who"),
    ],
)
def test_an_invalid_query_parameter_is_named(admin: Caller, path: str, field: str) -> None:
    refused = problem(admin("GET", path), 422)
    assert [row["field"] for row in refused["errors"]] == [field]


def test_commands_reject_unknown_query_parameters(admin: Caller) -> None:
    for method, path, body in (
        ("POST", "/v1/keys", {"name": "n"}),
        ("PATCH", "/v1/keys/000000000000", {"enabled": True}),
        ("POST", "/v1/keys/000000000000/rotate", {}),
    ):
        refused = problem(admin(method, f"{path}?dry_run=1", json=body), 422)
        assert [row["field"] for row in refused["errors"]] == ["dry_run"]


@pytest.mark.parametrize("name", ["n" * 256, "a b", "é", ""])
def test_an_invalid_idempotency_key_is_rejected(admin: Caller, name: str) -> None:
    headers = {"Idempotency-Key": name.encode("latin-1")}
    for path, body in (("/v1/keys", {"name": "n"}), ("/v1/keys/000000000000/rotate", {})):
        refused = problem(admin("POST", path, headers, json=body), 422)
        assert [row["field"] for row in refused["errors"]] == ["Idempotency-Key"]
    longest = admin("POST", "/v1/keys", {"Idempotency-Key": "n" * 255}, json={"name": "n"})
    assert longest.status_code == 201


@pytest.mark.parametrize(
    ("tags", "status"),
    [('"7", W/"9"', 412), ('"x"', 412), ("7", 422), ("", 422), ('"3", W/"1"', 200), ("*", 200)],
)
def test_if_match_must_list_the_current_version(admin: Caller, tags: str, status: int) -> None:
    made = create(admin, name="Matched")
    asked = {"If-Match": tags}
    answers = [
        admin("PATCH", f"/v1/keys/{made['id']}", asked, json={"description": ""}),
        admin("POST", f"/v1/keys/{made['id']}/rotate", asked),
    ]
    if status != 200:
        answers.append(admin("DELETE", f"/v1/keys/{made['id']}", asked))
    assert [answer.status_code for answer in answers] == [status] * len(answers)
    for answer in answers[: 3 if status == 412 else 0]:
        assert problem(answer, 412)["detail"].startswith("The key is at version 1, which isn't in If-Match.")
        assert answer.headers["ETag"] == '"1"'


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8"])
def test_the_location_header_points_to_the_created_key(admin: Caller, content_type: str) -> None:
    """By the fast path, and by Flask."""
    for name in ("once", "once"):  # the second answer is of a repeated request
        headers = {
            "Content-Type": content_type,
            "Idempotency-Key": f"{name} {content_type}".replace(" ", "-"),
        }
        answer = admin("POST", "/v1/keys", headers, data=b'{"name": "Located"}')
        assert (answer.status_code, answer.headers["Location"]) == (201, f"/v1/keys/{answer.json()['id']}")
        after = {"X-Ledger-Position": answer.headers["X-Ledger-Position"]}
        assert admin("GET", answer.headers["Location"], after).json()["name"] == "Located"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/keys"),
        ("POST", "/v1/keys/verify"),
        ("POST", "/v1/audit/lookup"),
        ("PATCH", "/v1/keys/000000000000"),
        ("POST", "/v1/keys/000000000000/rotate"),
        ("DELETE", "/v1/keys/000000000000"),
    ],
)
def test_a_compressed_body_is_refused_with_the_accepted_encoding(
    admin: Caller, method: str, path: str
) -> None:
    body = gzip.compress(b'{"name": "n", "api_key": "n"}')
    for coding in ("gzip", "br", "Identity, GZIP"):
        headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
        answer = admin(method, path, headers, data=body)
        assert problem(answer, 415)["code"] == "unsupported_encoding"
        assert answer.headers["Accept-Encoding"] == "identity"


def test_a_body_of_another_type_is_refused_with_the_accepted_type(admin: Caller) -> None:
    answer = admin("POST", "/v1/keys", data=b"a=b")
    assert problem(answer, 415)["code"] == "unsupported_media_type"
    assert answer.headers["Accept"] == "application/json"


def test_a_timestamp_with_lower_case_t_and_z_is_accepted(admin: Caller) -> None:
    made = create(admin, name="Timed", expires_at="2099-01-01t00:00:00.5z")
    assert made["expires_at"] == "2099-01-01T00:00:00.500Z"


def test_a_read_behind_the_requested_position_is_marked_as_behind(admin: Caller) -> None:
    answer = admin("GET", "/v1/keys?limit=1", {"X-Ledger-Position": str(2**40)})
    assert (answer.status_code, answer.headers["X-Ledger-Behind"]) == (200, "true")
    problem(admin("GET", "/v1/keys", {"X-Ledger-Position": "9" * 5_000}), 422)


def test_a_rate_limited_caller_gets_retry_after(tmp_path: Path) -> None:
    service = Service(tmp_path / "data", KEYLEDGER_RATE_LIMIT="3/minute")
    service.start()
    try:
        many, other = (Caller(service, service.key("keyledger:keys.read")) for _ in range(2))
        answers = [many("GET", "/v1/keys") for _ in range(20)]
        refused = answers[-1]
        assert "Too many" in problem(refused, 429)["detail"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        # Each of the two web processes has its own limit.
        assert 3 <= sum(answer.status_code == 200 for answer in answers) <= 6
        assert other("GET", "/v1/keys").status_code == 200
    finally:
        assert service.stop() == 0


def test_a_stale_if_match_changes_nothing(admin: Caller) -> None:
    made = create(admin, name="Matched")
    path = f"/v1/keys/{made['id']}"
    assert admin("PATCH", path, {"If-Match": '"1"'}, json={"enabled": False}).status_code == 200
    problem(admin("PATCH", path, {"If-Match": '"1"'}, json={"enabled": True}), 412)
    assert admin("GET", f"{path}/history").json()["events"][-1]["data"]["enabled"] is False


def test_pages_have_no_gaps_or_overlaps(service: Service) -> None:
    caller = Caller(service, service.key("keyledger:admin", workspace="pages"))
    made = [create(caller, name=f"Key {number}")["id"] for number in range(7)]
    newest = position(caller("PATCH", f"/v1/keys/{made[-1]}", json={"enabled": True}))
    seen: list[str] = []
    page: Json = {"next_cursor": ""}
    while page["next_cursor"] is not None:
        cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        page = caller("GET", f"/v1/keys?limit=3{cursor}", newest).json()
        seen += [key["id"] for key in page["keys"]]
    assert seen[:7] == made[::-1]


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({}, "name", "Enter a name"),
        ({"name": ""}, "name", "Enter a name."),
        ({"name": " \t "}, "name", "Enter a name."),
        ({"name": None}, "name", "may not be null"),
        ({"name": 7}, "name", "must be a string"),
        ({"name": "n" * 101}, "name", "up to 100 characters"),
        ({"name": "a\u0000b"}, "name", "control character U+0000"),
        ({"name": "a\ud800b"}, "name", "control character U+D800"),
        ({"name": "n", "description": "d" * 501}, "description", "up to 500 characters"),
        ({"name": "n", "scopes": ["Not A Scope"]}, "scopes", "isn't a valid scope"),
        ({"name": "n", "scopes": ["keyledger:everything"]}, "scopes", "is unknown"),
        ({"name": "n", "scopes": "x"}, "scopes", "list"),
        ({"name": "n", "expires_at": "tomorrow"}, "expires_at", "must be a time like"),
        ({"name": "n", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at", "in the future"),
        ({"name": "n", "workspace": "other"}, "workspace", "Unknown field"),
    ],
)
def test_an_invalid_field_is_named_with_its_rule_and_nothing_is_written(
    admin: Caller, body: Json, field: str, rule: str
) -> None:
    before = admin("GET", "/v1/keys?limit=1").json()
    refused = problem(admin("POST", "/v1/keys", json=body), 422)
    assert [(row["field"], rule in row["message"]) for row in refused["errors"]] == [(field, True)], refused
    assert admin("GET", "/v1/keys?limit=1").json() == before


def test_malformed_and_oversized_bodies_are_rejected(admin: Caller) -> None:
    json_type = {"Content-Type": "application/json"}
    problem(admin("POST", "/v1/keys", json_type, data=b'{"name": '), 400)
    problem(admin("POST", "/v1/keys", json_type, data=b"\xff"), 400)
    problem(admin("POST", "/v1/keys", json_type, data=b"[" * 60_000), 400)
    problem(admin("POST", "/v1/keys", json_type, data=b'{"name": ' + b"9" * 5_000 + b"}"), 400)
    problem(admin("POST", "/v1/keys", {"Content-Type": "text/plain"}, data=b'{"name": "n"}'), 415)
    problem(admin("POST", "/v1/keys", data={"name": "n"}), 415)
    problem(admin("POST", "/v1/keys", json={"name": "n", "description": "d" * 70_000}), 413)
    problem(admin("POST", "/v1/keys", json_type, data=iter([b"[" * 1_000] * 70)), 413)


@pytest.mark.parametrize("key_id", ["000000000000", "x", "%2e%2e", "key:1"])
def test_an_unknown_key_is_not_found(admin: Caller, key_id: str) -> None:
    for method, path in (("GET", ""), ("PATCH", ""), ("GET", "/history")):
        body = {"json": {"enabled": True}} if method == "PATCH" else {}
        problem(admin(method, f"/v1/keys/{key_id}{path}", **body), 404)


def test_unknown_urls_and_methods_are_refused_with_problem_json(admin: Caller) -> None:
    problem(admin("GET", "/v1/nothing"), 404)
    assert "PATCH" in admin("PUT", "/v1/keys/000000000000", json={}).headers["Allow"]


INVALID = 'Bearer error="invalid_token"'


def test_an_invalid_caller_key_is_refused_with_the_reason(service: Service, admin: Caller) -> None:
    off = create(admin, name="Off", scopes=["keyledger:admin"])
    admin("PATCH", f"/v1/keys/{off['id']}", json={"enabled": False})
    unknown = parse(off["api_key"])
    for token, words in (
        (None, "Authorization: Bearer"),
        ("nonsense", "mistyped"),
        (off["api_key"][:-1] + ("1" if off["api_key"].endswith("0") else "0"), "mistyped"),
        (off["api_key"], "disabled"),
    ):
        answer = Caller(service, token)("GET", "/v1/keys")
        assert words in problem(answer, 401)["detail"]
        assert answer.headers["WWW-Authenticate"] == ("Bearer" if token is None else INVALID)
        assert unknown.reveal() not in answer.text


def test_a_missing_scope_is_named(service: Service, admin: Caller) -> None:
    made = create(admin, name="Reader", scopes=["keyledger:keys.read"])
    reader, scopeless = Caller(service, made["api_key"]), Caller(service, service.key())
    assert reader("GET", "/v1/keys").status_code == 200
    assert "keyledger:keys.write" in problem(reader("POST", "/v1/keys", json={"name": "n"}), 403)["detail"]
    assert "keyledger:audit.read" in problem(reader("GET", "/v1/audit/entries"), 403)["detail"]
    assert "keyledger:keys.read" in problem(scopeless("GET", "/v1/keys"), 403)["detail"]


def test_callers_cannot_grant_a_scope_they_do_not_hold(service: Service, admin: Caller) -> None:
    writer = Caller(service, create(admin, name="Writer", scopes=["keyledger:keys.write"])["api_key"])
    refused = writer("POST", "/v1/keys", json={"name": "n", "scopes": ["keyledger:admin"]})
    assert "keyledger:admin" in problem(refused, 403)["detail"]


def test_a_key_of_another_workspace_is_reported_as_not_found(service: Service, admin: Caller) -> None:
    foreign = Caller(service, service.key("keyledger:admin", workspace="elsewhere"))
    made = create(admin, name="Ours")
    for method, path in (("GET", ""), ("PATCH", ""), ("GET", "/history")):
        body = {"json": {"enabled": False}} if method == "PATCH" else {}
        theirs = problem(foreign(method, f"/v1/keys/{made['id']}{path}", **body), 404)
        none = problem(foreign(method, f"/v1/keys/000000000000{path}", **body), 404)
        assert theirs["detail"] == none["detail"]
    assert all(key["id"] != made["id"] for key in foreign("GET", "/v1/keys").json()["keys"])


def test_a_valid_request_id_is_echoed_and_recorded_in_the_event(admin: Caller) -> None:
    answer = admin("POST", "/v1/keys", {"X-Request-Id": "checkout-42"}, json={"name": "Traced"})
    assert answer.headers["X-Request-Id"] == "checkout-42"
    events = admin("GET", f"/v1/keys/{answer.json()['id']}/history").json()["events"]
    assert events[0]["request"]["id"] == "checkout-42"
    for strange in ("a b", "x" * 65, "é", ""):
        given = admin("GET", "/v1/keys?limit=1", {"X-Request-Id": strange.encode("latin-1")})
        assert re.fullmatch(r"[0-9a-f]{32}", given.headers["X-Request-Id"])


def test_concurrent_writers_read_their_own_writes(service: Service, admin: Caller) -> None:
    # Each writer has its own key, because the rate limit is per key.
    keys = [create(admin, name=str(n), scopes=["keyledger:admin"])["api_key"] for n in range(8)]

    def write_and_read(writer: int) -> None:
        caller = Caller(service, keys[writer])
        for number in range(25):
            made = current(caller, "POST", "/v1/keys", json={"name": f"{writer}/{number}"})
            key = made.json()
            listed = current(caller, "GET", "/v1/keys?limit=100", position(made))
            assert key["id"] in [row["id"] for row in listed.json()["keys"]]
            off = current(caller, "PATCH", f"/v1/keys/{key['id']}", json={"enabled": False})
            seen = current(caller, "GET", f"/v1/keys/{key['id']}", position(off))
            assert (seen.json()["status"], seen.headers["ETag"]) == ("inactive", '"2"')

    with ThreadPoolExecutor(8) as writers:
        assert [*writers.map(write_and_read, range(8))] == [None] * 8


def test_idle_connections_do_not_block_other_callers(service: Service, admin: Caller) -> None:
    idle = [requests.Session() for _ in range(100)]
    for session in idle:
        session.get(f"{service.url}/healthz", timeout=60)
    assert admin("GET", "/v1/keys").status_code == 200
    for session in idle:
        session.close()


def test_the_projector_reports_its_position_and_lag(service: Service, admin: Caller) -> None:
    made = admin("POST", "/v1/keys", json={"name": "Measured"})
    head = int(made.headers["X-Ledger-Position"])
    admin("GET", "/v1/keys", position(made))
    told = json.loads(service.run("projector", "status", "--json").stdout)
    assert (told["head"], told["position"], told["lag_events"], told["parked"]) == (head, head, 0, {})
    assert "No keys are parked" in service.run("projector", "retry").stdout
    expected = {
        f"keyledger_ledger_position {head}.0",
        "keyledger_projector_lag_events 0.0",
        "keyledger_projector_lag_seconds 0.0",
        "keyledger_projector_parked_keys 0.0",
    }
    # The metrics are collected every two seconds.
    until(
        lambda: expected <= {*requests.get(f"{service.url}/metrics", timeout=60).text.splitlines()},
        what="the figures",
    )


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/nothing", "/v1/keys/verify"])
def test_an_unknown_caller_is_refused_before_the_body_is_received(service: Service, path: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection:
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", "2")
        connection.endheaders()
        refused = connection.getresponse()
        assert (refused.status, refused.getheader("Connection")) == (401, "close")


def test_a_connection_stays_open_after_a_refused_form(service: Service) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)) as kept:
        kept.request("POST", "/sign-out", b"{}")
        refused = kept.getresponse()
        refused.read()
        assert 400 <= refused.status < 500
        kept.request("GET", "/healthz")
        assert kept.getresponse().status == 200
