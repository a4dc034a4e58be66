"""Permissions: every route of the URL map, for each role and scope, in two workspaces."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
import requests

from services.keys.model.token import parse
from shared.identity import ADMIN, AUDIT_READ, KEYS_READ, KEYS_VERIFY, KEYS_WRITE, PLATFORM_VERIFY
from tests.support.application import application
from tests.support.service import Service
from tests.support.web_client import Visitor

Json = dict[str, Any]
PASSWORD = "a password of the tests"

# The expected status of each route for each role. A missing route fails the first test.
PEOPLE = ("nobody", "auditor", "developer", "owner", "stranger")  # a stranger owns another workspace
PAGES = {
    "GET /": "302 302 302 302 302",
    "GET /sign-in": "200 200 200 200 200",
    "POST /sign-in": "422 422 422 422 422",
    "POST /sign-out": "303 303 303 303 303",
    "GET /account": "303 200 200 200 200",
    "POST /account/password": "303 422 422 422 422",
    "POST /account/sign-out-everywhere": "303 303 303 303 303",
    "GET /accounts": "303 403 403 200 200",
    "GET /accounts/new": "303 403 403 200 200",
    "POST /accounts/new": "303 403 403 200 200",
    "GET /accounts/person": "303 403 403 200 404",
    "POST /accounts/role": "303 403 403 303 404",
    "POST /accounts/disable": "303 403 403 303 404",
    "POST /accounts/enable": "303 403 403 303 404",
    "GET /accounts/password": "303 403 403 200 404",
    "POST /accounts/password": "303 403 403 200 404",
    "GET /keys": "303 200 200 200 200",
    "POST /keys/search": "303 303 303 303 303",
    "GET /keys/new": "303 403 200 200 200",
    "POST /keys/new": "303 403 200 200 200",
    "GET /keys/<key_id>": "303 200 200 200 404",
    "POST /keys/<key_id>/status": "303 403 303 303 404",
    "GET /keys/<key_id>/change": "303 403 200 200 404",
    "POST /keys/<key_id>/change": "303 403 303 303 404",
    "GET /keys/<key_id>/rotate": "303 403 200 200 404",
    "POST /keys/<key_id>/rotate": "303 403 200 200 404",
    "GET /keys/<key_id>/revoke": "303 403 200 200 404",
    "POST /keys/<key_id>/revoke": "303 403 303 303 404",
    "GET /audit": "303 200 200 200 200",
    "POST /audit/search": "303 303 303 303 303",
    "GET /audit/activity": "303 200 200 200 200",
    "POST /audit/export": "303 200 200 200 200",
    "GET /audit/timeline": "303 303 303 303 303",
    "GET /audit/integrity": "303 200 200 200 200",
    "GET /audit/verdict": "303 200 200 200 200",
    "POST /audit/verdict": "303 303 303 303 303",
    "GET /audit/lookup": "303 200 200 200 200",
    "POST /audit/lookup": "303 422 422 422 422",
}
SCOPES = (KEYS_READ, KEYS_WRITE, KEYS_VERIFY, PLATFORM_VERIFY, AUDIT_READ, ADMIN)
# "rotated" is an admin key's previous secret; "stranger" is an admin key of another workspace.
CALLERS = ("no key", "no scope", *SCOPES, "rotated", "stranger")
CALLS = {
    #                          key: none  no   read write verify platform audit admin rotated stranger
    "GET /v1/keys": "401 403 200 403 403 403 403 200 200 200",
    "POST /v1/keys": "401 403 403 201 403 403 403 201 403 201",
    "GET /v1/keys/<key_id>": "401 403 200 403 403 403 403 200 200 404",
    "PATCH /v1/keys/<key_id>": "401 403 403 200 403 403 403 200 403 404",
    "DELETE /v1/keys/<key_id>": "401 403 403 200 403 403 403 200 403 404",
    "POST /v1/keys/<key_id>/rotate": "401 403 403 200 403 403 403 200 403 404",
    "GET /v1/keys/<key_id>/history": "401 403 200 403 403 403 403 200 200 404",
    "GET /v1/keys/<key_id>/usage": "401 403 200 403 403 403 403 200 200 404",
    "POST /v1/keys/verify": "401 403 403 403 200 200 403 200 200 200",
    "GET /v1/audit/entries": "401 403 403 403 403 403 200 200 200 200",
    "GET /v1/audit/entries.jsonl": "401 403 403 403 403 403 200 200 403 200",
    "GET /v1/audit/entries.csv": "401 403 403 403 403 403 200 200 403 200",
    "GET /v1/audit/integrity": "401 403 403 403 403 403 200 200 200 200",
    "GET /v1/audit/verdict": "401 403 403 403 403 403 422 422 422 422",
    "POST /v1/audit/lookup": "401 403 403 403 403 403 404 404 404 404",
}
# Public routes. Forward-auth isn't listed: it verifies the caller's own key, whatever its scopes.
OPEN = {
    "GET /docs",
    "GET /docs/problems",
    "GET /openapi.json",
    "GET /healthz",
    "GET /readyz",
    "GET /statusz",
    "GET /metrics",
    "GET /static/<path:filename>",
}
GATE = "/v1/forward-auth"
SENT: dict[str, Json] = {
    "POST /sign-in": {"email": "nobody@example.org", "password": "wrong, and long enough"},
    "POST /account/password": {"current": "wrong", "new": "another password", "again": "another password"},
    "POST /accounts/new": {"role": "auditor"},
    "POST /accounts/role": {"role": "developer"},
    "POST /keys/search": {"search": "a"},
    "POST /keys/new": {"name": "Made"},
    "POST /keys/<key_id>/status": {"enabled": "false", "reason": ""},
    "POST /keys/<key_id>/change": {"name": "Renamed"},
    "POST /keys/<key_id>/rotate": {"grace_seconds": "0"},
    "POST /v1/keys": {"name": "Made"},
    "PATCH /v1/keys/<key_id>": {"enabled": False},
    "POST /v1/keys/verify": {"api_key": "nonsense"},
    "POST /audit/lookup": {"api_key": "nonsense"},
    "POST /v1/audit/lookup": {"api_key": "nonsense"},
}


def routes() -> Iterator[str]:
    """Method and path of every route of the application."""
    for rule in application().url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield f"{method} {rule.rule}"


class Target(NamedTuple):
    """The target of a request: a key and an account, both in the workspace `default`."""

    key_id: str
    email: str


def ask(visitor: Visitor, method: str, path: str, fields: Json) -> requests.Response:
    """Requests a page, or submits a form with its CSRF token."""
    if method == "GET":
        return visitor.page(f"{path}?{urlencode(fields)}")
    return visitor.submit(path, "/sign-in", **fields)


def signed_in(service: Service, email: str | None) -> Visitor:
    """A visitor, signed in if an e-mail is given."""
    visitor = Visitor(service.url)
    if email:
        assert visitor.sign_in(email, PASSWORD).status_code == 303
    return visitor


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Keyledger without a rate limit."""
    running = Service(tmp_path_factory.mktemp("data"), KEYLEDGER_RATE_LIMIT="0")
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def addresses(service: Service) -> dict[str, str | None]:
    """The e-mail of each account, by role."""
    owner_elsewhere = service.account("stranger@example.org", "owner", PASSWORD, "elsewhere")
    roles = ("auditor", "developer", "owner")
    known = {role: service.account(f"{role}@example.org", role, PASSWORD) for role in roles}
    return known | {"nobody": None, "stranger": owner_elsewhere}


@pytest.fixture(scope="module")
def people(service: Service, addresses: dict[str, str | None]) -> dict[str, Visitor]:
    return {name: signed_in(service, email) for name, email in addresses.items()}


@pytest.fixture(scope="module")
def tokens(service: Service) -> dict[str, str]:
    held = {scope: service.key(scope) for scope in SCOPES} | {"rotated": service.key(ADMIN)}
    headers = {"Authorization": f"Bearer {held['rotated']}"}
    rotation = f"{service.url}/v1/keys/{parse(held['rotated']).id}/rotate"
    requests.post(rotation, json={"grace_seconds": 3600}, headers=headers, timeout=60).raise_for_status()
    return held | {"no scope": service.key(), "stranger": service.key(ADMIN, workspace="elsewhere")}


def created(service: Service, token: str, *scopes: str, **more: str) -> Json:
    """Creates a key with the API, and waits until the views include it."""
    headers = {"Authorization": f"Bearer {token}"}
    asked = {"name": "T", "scopes": scopes} | more
    answer = requests.post(f"{service.url}/v1/keys", json=asked, headers=headers, timeout=60)
    made: Json = answer.json()
    headers["X-Ledger-Position"] = answer.headers["X-Ledger-Position"]
    requests.get(f"{service.url}/v1/keys/{made['id']}", headers=headers, timeout=60).raise_for_status()
    return made


_numbers = itertools.count()


@pytest.fixture
def target(service: Service, people: dict[str, Visitor], tokens: dict[str, str]) -> Any:
    """Creates a key and an account for one request."""

    def make(route: str) -> Target:
        email = f"person{next(_numbers)}@example.org"
        if "/accounts/" in route and route != "POST /accounts/new":
            answer = ask(people["owner"], "POST", "/accounts/new", {"email": email, "role": "auditor"})
            assert answer.status_code == 200, answer.text
        return Target(created(service, tokens[ADMIN])["id"], email)

    return make


def test_every_route_is_listed_in_a_table() -> None:
    known = {*PAGES, *CALLS, *OPEN}
    served = {route for route in routes() if not route.endswith(GATE)}
    assert served == known


@pytest.mark.parametrize("route", PAGES)
def test_each_page_gives_each_role_the_expected_status(
    route: str, service: Service, addresses: dict[str, str | None], people: dict[str, Visitor], target: Any
) -> None:
    answers = {}
    for name in PEOPLE:
        about = target(route)
        fields = SENT.get(route, {})
        if "/accounts/" in route:
            fields = {"email": about.email} | fields
        method, path = route.split()
        answer = ask(people[name], method, path.replace("<key_id>", about.key_id), fields)
        answers[name] = str(answer.status_code)
        if "/sign-out" in route:
            people[name] = signed_in(service, addresses[name])
        if answers[name] == "303" and name == "nobody" and path not in {"/sign-in", "/sign-out"}:
            assert "/sign-in" in answer.headers["Location"]
    assert " ".join(answers.values()) == PAGES[route]


@pytest.mark.parametrize("route", CALLS)
def test_each_endpoint_gives_each_scope_the_expected_status(
    route: str, service: Service, tokens: dict[str, str], target: Any
) -> None:
    answers = []
    for name in CALLERS:
        method, path = route.split()
        headers = {"Authorization": f"Bearer {tokens[name]}"} if name in tokens else {}
        url = service.url + path.replace("<key_id>", target(route).key_id)
        answer = requests.request(method, url, json=SENT.get(route), headers=headers, timeout=60)
        answers.append(str(answer.status_code))
    assert " ".join(answers) == CALLS[route]


@pytest.mark.parametrize("route", [route for route in CALLS if "<key_id>" in route])
def test_endpoints_report_keys_of_other_workspaces_as_not_found(
    route: str, service: Service, tokens: dict[str, str], target: Any
) -> None:
    method, path = route.split()
    headers = {"Authorization": f"Bearer {tokens['stranger']}", "X-Request-Id": "same"}
    theirs, none = (
        requests.request(
            method,
            service.url + path.replace("<key_id>", key_id),
            json=SENT.get(route),
            headers=headers,
            timeout=60,
        )
        for key_id in (target(route).key_id, "000000000000")
    )
    assert theirs.content == none.content
    assert theirs.status_code == 404


@pytest.mark.parametrize("route", [route for route, answers in PAGES.items() if answers.endswith("404")])
def test_pages_report_targets_of_other_workspaces_as_not_found(
    route: str, people: dict[str, Visitor], target: Any
) -> None:
    method, path = route.split()
    about, shown = target(route), []
    for key_id, email in (about, ("000000000000", "unknown@example.org")):
        answer = ask(
            people["stranger"],
            method,
            path.replace("<key_id>", key_id),
            SENT.get(route, {}) | {"email": email},
        )
        text = re.sub(r'name="csrf_token" value="[^"]+"', "", answer.text)
        shown.append(text.replace(answer.headers["X-Request-Id"], "").replace(email, ""))
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("status", {"enabled": "true"}),
        ("change", {"expires_at": ""}),
        ("change", {"scopes": "keyledger:admin\norders:read"}),
        ("rotate", {"grace_seconds": "0"}),
    ],
)
def test_developers_can_restrict_but_not_extend_a_key_with_more_scopes(
    service: Service, people: dict[str, Visitor], tokens: dict[str, str], path: str, fields: dict[str, str]
) -> None:
    developer = people["developer"]
    key = created(service, tokens[ADMIN], ADMIN, expires_at="2099-01-01T00:00:00Z")
    page = f"/keys/{key['id']}"
    off = ask(developer, "POST", f"{page}/status", {"enabled": "false", "reason": "leaked"})
    stronger = ask(developer, "POST", f"{page}/{path}", fields)
    assert (off.status_code, stronger.status_code) == (303, 403)
    assert "hold keyledger:admin" in stronger.text
    assert ask(people["owner"], "POST", f"{page}/{path}", fields).status_code in {200, 303}
    assert ask(developer, "POST", f"{page}/revoke", {}).status_code == 303


def test_public_routes_need_no_sign_in(service: Service) -> None:
    for route in OPEN:
        path = route.split()[1].replace("<path:filename>", "app.css")
        assert requests.get(service.url + path, timeout=60).status_code == 200
