"""Verification on a real server, as a platform's services and gateways use it."""

import json
import random
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import requests

from services.keys.verification.verifier import CODES
from shared.eventstore.ledger import LOG
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from shared.text.key_detection import checksum
from tests.support.processes import until
from tests.support.service import Service

Json = dict[str, Any]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]


class Platform:
    """A platform's own key, which creates and changes others."""

    def __init__(self, service: Service, token: str) -> None:
        self._service = service
        self._token = token

    def call(self, method: str, path: str, headers: Json | None = None, **body: Any) -> requests.Response:
        bearer = {"Authorization": f"Bearer {self._token}"}
        return requests.request(
            method, self._service.url + path, headers=bearer | (headers or {}), timeout=60, **body
        )

    def make(self, **fields: Any) -> Json:
        answer = self.call("POST", "/v1/keys", json={"name": "Subject"} | fields)
        assert answer.status_code == 201, answer.text
        made: Json = answer.json()
        return made

    def change(self, key: Json, **fields: Any) -> Json:
        answer = self.call("PATCH", f"/v1/keys/{key['id']}", json=fields)
        assert answer.status_code == 200, answer.text
        return {"X-Ledger-Position": answer.headers["X-Ledger-Position"]}

    def revoke(self, key: Json) -> Json:
        answer = self.call("DELETE", f"/v1/keys/{key['id']}")
        assert answer.status_code == 200, answer.text
        return {"X-Ledger-Position": answer.headers["X-Ledger-Position"]}

    def verify(self, token: str, *scopes: str, at: Json | None = None) -> Json:
        answer = self.call("POST", "/v1/keys/verify", at, json={"api_key": token, "scopes": scopes})
        assert answer.status_code == 200, answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        verdict: Json = answer.json()
        assert verdict["valid"] == (verdict["code"] == "VALID")
        return verdict


JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def ours(service: Service) -> Platform:
    return Platform(service, service.key("keyledger:admin"))


@pytest.fixture(scope="module")
def theirs(service: Service) -> Platform:
    return Platform(service, service.key("keyledger:admin", workspace="theirs"))


def gate(
    service: Service, token: str | None, query: str = "", method: str = "GET", **more: Any
) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    return requests.request(
        method,
        f"{service.url}/v1/forward-auth{query}",
        headers=headers | more.pop("headers", {}),
        timeout=60,
        **more,
    )


def unknown() -> str:
    payload = f"kl_{''.join(random.choices('0123456789abcdef', k=44))}"
    return payload + checksum(payload)


def in_ms(milliseconds: int) -> str:
    return (datetime.now(UTC) + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds")


def test_verdict_codes_have_a_fixed_precedence(service: Service, ours: Platform) -> None:
    """The key gets one defect after another; each takes precedence over the earlier ones."""
    key = ours.make(scopes=["orders:read"])
    token, lacking = key["api_key"], "orders:write"
    seen = [ours.verify(token, "orders:read")["code"], ours.verify(token, lacking)["code"]]
    assert [gate(service, token, f"?scopes={scope}").status_code for scope in ("orders:read", lacking)] == [
        200,
        403,
    ]
    until(lambda: ours.call("PATCH", f"/v1/keys/{key['id']}", json={"expires_at": in_ms(1_000)}).ok)
    until(lambda: ours.verify(token, lacking)["code"] == "EXPIRED")
    seen.append("EXPIRED")
    assert gate(service, token, f"?scopes={lacking}").status_code == 401
    at = ours.change(key, enabled=False)
    seen.append(ours.verify(token, lacking, at=at)["code"])
    at = ours.revoke(key)
    seen.append(ours.verify(token, lacking, at=at)["code"])
    seen += [ours.verify(unknown(), lacking)["code"], ours.verify(token[:-1], lacking)["code"]]
    assert seen == [
        "VALID",
        "INSUFFICIENT_SCOPES",
        "EXPIRED",
        "DISABLED",
        "REVOKED",
        "NOT_FOUND",
        "MALFORMED",
    ]
    assert set(seen) == set(CODES)
    for refused in (token, unknown(), token[:-1]):
        answer = gate(service, refused)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (
            401,
            'Bearer error="invalid_token"',
        )


def test_a_verdict_contains_the_keys_details_only_if_it_is_known(ours: Platform) -> None:
    key = ours.make(name="Told", scopes=["b", "a"], expires_at="2099-01-01T00:00:00Z")
    verdict = ours.verify(key["api_key"])
    assert verdict.pop("position") > 0
    assert verdict == {
        "valid": True,
        "code": "VALID",
        "key_id": key["id"],
        "name": "Told",
        "workspace": ours._service.workspace,
        "scopes": ["b", "a"],
        "expires_at": "2099-01-01T00:00:00.000Z",
    }
    for nobody in (unknown(), "nonsense"):
        assert set(ours.verify(nobody)) == {"valid", "code", "position"}


def test_both_secrets_of_a_rotated_key_work_until_the_grace_period_ends(ours: Platform) -> None:
    key = ours.make()
    answer = ours.call("POST", f"/v1/keys/{key['id']}/rotate", json={"grace_seconds": 3600})
    at = {"X-Ledger-Position": answer.headers["X-Ledger-Position"]}
    old, new = key["api_key"], answer.json()["api_key"]
    assert [ours.verify(token, at=at)["code"] for token in (old, new)] == ["VALID", "VALID"]
    other = ours.make()
    new = ours.call("POST", f"/v1/keys/{other['id']}/rotate", json={"grace_seconds": 1}).json()["api_key"]
    until(lambda: ours.verify(other["api_key"])["code"] == "EXPIRED")
    assert ours.verify(new)["code"] == "VALID"


@pytest.mark.drill
@pytest.mark.alone
def test_a_key_of_another_workspace_is_unknown_and_takes_the_same_time(
    ours: Platform, theirs: Platform
) -> None:
    foreign, none = theirs.make()["api_key"], unknown()
    assert theirs.verify(foreign)["code"] == "VALID"
    ours.verify(none)

    def body(token: str) -> Json:
        return {name: value for name, value in ours.verify(token).items() if name != "position"}

    assert body(foreign) == body(none) == {"valid": False, "code": "NOT_FOUND"}
    times: dict[str, list[float]] = {foreign: [], none: []}
    for _ in range(300):
        for token, taken in times.items():
            start = time.perf_counter()
            ours.verify(token)
            taken.append(time.perf_counter() - start)
    ratio = median(times[foreign]) / median(times[none])
    assert 0.8 < ratio < 1.25


def test_the_platform_verify_scope_verifies_keys_of_all_workspaces(
    service: Service, theirs: Platform
) -> None:
    foreign = theirs.make()["api_key"]
    everywhere = Platform(service, service.key("keyledger:platform.verify"))
    of_one = Platform(service, service.key("keyledger:keys.verify"))
    assert everywhere.verify(foreign)["workspace"] == "theirs"
    assert of_one.verify(foreign)["code"] == "NOT_FOUND"
    refused = Platform(service, service.key("keyledger:keys.read")).call(
        "POST", "/v1/keys/verify", json={"api_key": foreign}
    )
    assert refused.status_code == 403
    assert "keyledger:keys.verify" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("sent", "status", "field"),
    [
        ({"json": {}}, 422, "api_key"),
        ({"json": {"api_key": 7}}, 422, "api_key"),
        ({"json": {"api_key": "x", "scopes": "y"}}, 422, "scopes"),
        ({"json": {"api_key": "x", "scopes": ["y"] * 51}}, 422, "scopes"),
        ({"json": {"api_key": "x", "apikey": "x"}}, 422, "apikey"),
        ({"data": b'{"api_key":"x","api_key":"y"}', "headers": JSON_TYPE}, 422, "api_key"),
        ({"data": b'{"api_key":"x","scopes":["y"],"\\u0073copes":[]}', "headers": JSON_TYPE}, 422, "scopes"),
        ({"data": b"{", "headers": JSON_TYPE}, 400, None),
        ({"data": b"[" * 60_000, "headers": JSON_TYPE}, 400, None),
        ({"json": {"api_key": "x" * 70_000}}, 413, None),
        ({"data": b"api_key=x"}, 415, None),
        ({"json": {"api_key": "x"}, "headers": {"X-Ledger-Position": "-1"}}, 422, "X-Ledger-Position"),
    ],
)
def test_an_invalid_request_names_the_field_to_fix(
    ours: Platform, sent: Json, status: int, field: str | None
) -> None:
    answer = ours.call("POST", "/v1/keys/verify", **sent)
    assert answer.status_code == status, answer.text
    assert [row["field"] for row in answer.json().get("errors", ())] == ([field] if field else [])


def test_unusual_request_forms_get_the_same_response(ours: Platform) -> None:
    token = ours.make()["api_key"]
    usual = ours.verify(token)
    body = json.dumps({"api_key": token}).encode()
    json_type = {"Content-Type": "application/json; charset=utf-8"}
    for asked in (
        ours.call("POST", "/v1/keys/verify?after=1", json={"api_key": token}),
        ours.call("POST", "/v1/keys/verify", json_type, data=body),
        ours.call("POST", "/v1/keys/verify", json_type, data=iter([body])),
    ):
        assert asked.json() | {"position": 0} == usual | {"position": 0}
        assert asked.headers["Cache-Control"] == "no-store"
        assert asked.headers["X-Content-Type-Options"] == "nosniff"


def test_a_verdict_includes_the_requested_position_or_is_refused(ours: Platform) -> None:
    key = ours.make()
    for number in range(40):
        at = ours.change(key, enabled=number % 2 == 1)
        verdict = ours.verify(key["api_key"], at=at)
        assert verdict["code"] == ("VALID" if number % 2 else "DISABLED")
        assert verdict["position"] >= int(at["X-Ledger-Position"])
    for asked in ({"headers": {"X-Ledger-Position": "999999999"}}, {}):
        path = "/v1/keys/verify" + ("" if asked else "?after=999999999")
        refused = ours.call("POST", path, json={"api_key": key["api_key"]}, **asked)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "position" in refused.json()["detail"]


@pytest.mark.parametrize("method", METHODS)
def test_forward_auth_accepts_any_method_and_any_body(service: Service, ours: Platform, method: str) -> None:
    key = ours.make(scopes=["a", "b"])
    token, body = key["api_key"], b"x" * 100_000
    for more in ({}, {"data": body}, {"headers": {"Content-Type": "application/json"}, "data": b"{"}):
        passed = gate(service, token, f"?scopes=a,b&workspace={service.workspace}", method, **more)
        assert passed.status_code == 200
        assert passed.headers["X-Keyledger-Key-Id"] == key["id"]
        assert passed.headers["X-Keyledger-Workspace"] == service.workspace
        assert passed.headers["X-Keyledger-Scopes"] == "a b"
        assert passed.headers["Cache-Control"] == "no-store"
        assert gate(service, unknown(), "", method, **more).status_code == 401
        lacking = gate(service, token, "?scopes=c,d", method, **more)
        assert lacking.status_code == 403
        assert lacking.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="c d"'


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?scopes=a", 200),
        ("?scopes=a+b", 200),
        ("?scopes=a%20b,", 200),
        ("?%73copes=a", 200),
        ("?scopes=c", 403),
        ("?workspace=theirs", 401),
        ("?scope=a", 400),
    ],
)
def test_forward_auth_treats_a_query_the_same_for_every_method(
    service: Service, ours: Platform, query: str, status: int
) -> None:
    token = ours.make(scopes=["a", "b"])["api_key"]
    assert {gate(service, token, query, method).status_code for method in METHODS} == {status}


def test_a_mistyped_forward_auth_parameter_is_refused_and_logged(service: Service, ours: Platform) -> None:
    refused = gate(service, ours.make(scopes=["a"])["api_key"], "?SCOPES=a")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "SCOPES")
    until(lambda: re.search(r"forward-auth refused a parameter .*SCOPES", service.output))


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer x y", "\xe9"])
def test_forward_auth_refuses_requests_without_a_key(service: Service, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    refused = requests.get(f"{service.url}/v1/forward-auth", headers=headers, timeout=60)
    challenge = 'Bearer error="invalid_token"' if authorization == "Bearer x y" else "Bearer"
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, challenge)


def test_usage_is_counted_by_day_and_verdict(ours: Platform, theirs: Platform) -> None:
    key = ours.make(scopes=["a"])
    at = None
    for _ in range(3):
        ours.verify(key["api_key"], "a")
    ours.verify(key["api_key"], "b")
    theirs.verify(key["api_key"])  # who may not see it counts nothing
    at = ours.change(key, enabled=False)
    ours.verify(key["api_key"], at=at)
    path = f"/v1/keys/{key['id']}/usage"

    def counts() -> Json:
        days = ours.call("GET", path).json()["days"]
        return days[0]["counts"] if days else {}

    until(lambda: sum(counts().values()) >= 5)
    assert counts() == {"VALID": 3, "INSUFFICIENT_SCOPES": 1, "DISABLED": 1}
    told = ours.call("GET", path).json()
    assert told["days"][0]["date"] == told["last_used_at"][:10]
    assert theirs.call("GET", path).status_code == 404
    assert ours.call("GET", f"{path}?days=93").status_code == 422
    assert ours.call("GET", "/v1/keys/000000000000/usage").status_code == 404


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "data")
    service.start()
    yield service
    service.stop()


def test_stopping_the_service_loses_no_usage_counts_or_command_logs(running: Service) -> None:
    platform = Platform(running, running.key("keyledger:admin"))
    key = platform.make()
    for _ in range(57):
        platform.verify(key["api_key"])
    made = [key, *(platform.make() for _ in range(20))]
    assert running.stop() == 0
    assert running.output.count(" create_key ") == len(made)
    running.start()
    told = platform.call("GET", f"/v1/keys/{key['id']}/usage").json()
    assert told["days"][0]["counts"] == {"VALID": 57}


def test_a_key_with_an_unreadable_event_is_never_valid_but_can_be_revoked(running: Service) -> None:
    platform = Platform(running, running.key("keyledger:admin"))
    key = platform.make()
    assert platform.verify(key["api_key"])["code"] == "VALID"
    with connect(EmbeddedServer.in_directory(running.data_dir).url) as store:
        ((_, fields),) = store.xrevrange(LOG, count=1)
        strange = (
            fields[b"event"].replace(b'"KeyCreated"', b'"KeyBlessed"').replace(b'"version":1', b'"version":2')
        )
        entry = store.xadd(LOG, {"at": fields[b"at"], "event": strange}, id="0-*")
        store.rpush(f"{{kl:0}}:subject:key:{key['id']}", entry.decode().removeprefix("0-"))

    def status() -> int:
        return platform.call("POST", "/v1/keys/verify", json={"api_key": key["api_key"]}).status_code

    until(lambda: status() == 503)
    for _ in range(20):
        assert status() == 503
        assert gate(running, key["api_key"]).status_code == 503
        assert (
            platform.call("GET", "/v1/keys", {"Authorization": f"Bearer {key['api_key']}"}).status_code == 503
        )
    platform.revoke(key)
    assert status() == 503
