"""Sessions, forms and sign-in attempts over real HTTP, including session theft and CSRF."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.processes import until
from tests.support.service import Service
from tests.support.web_client import Visitor

PASSWORD = "a long password"
_numbers = count(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Keyledger behind a proxy; the tests act as the proxy and set the client IP addresses."""
    running = Service(tmp_path_factory.mktemp("data"), KEYLEDGER_TRUSTED_PROXIES="1")
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def owner(service: Service) -> Visitor:
    visitor = visiting(service)
    assert visitor.sign_in(*service.sign_in()).status_code == 303
    return visitor


@pytest.fixture
def email(service: Service) -> str:
    """The e-mail of a developer's account."""
    address = f"person{next(_numbers)}@example.com"
    return service.account(address, "developer", PASSWORD)


@pytest.fixture
def person(service: Service, email: str) -> Visitor:
    visitor = visiting(service)
    assert visitor.sign_in(email, PASSWORD).status_code == 303
    return visitor


def visiting(service: Service, **options: str) -> Visitor:
    """A visitor with a separate IP address."""
    return Visitor(service.url, options.pop("address", f"198.51.100.{next(_numbers)}"), **options)


def with_cookie(service: Service, cookie: str) -> Visitor:
    """A visitor with the given session cookie."""
    thief = visiting(service)
    thief.page("/sign-in")
    (own,) = thief.cookies.keys()
    thief.cookies.set(own, cookie, domain="127.0.0.1", path="/")
    return thief


def test_signing_in_replaces_a_planted_session_id(service: Service, email: str) -> None:
    planted = visiting(service)
    planted.token()
    victim = with_cookie(service, planted.cookie)
    assert victim.sign_in(email, PASSWORD).status_code == 303
    assert victim.is_in()
    assert victim.cookie != planted.cookie
    assert not planted.is_in()
    invented = with_cookie(service, "a" * 43)
    invented.token()
    assert invented.cookie != "a" * 43


def test_a_cookie_is_invalid_after_signing_out(service: Service, person: Visitor) -> None:
    stolen = with_cookie(service, person.cookie)
    assert stolen.is_in()
    assert person.submit("/sign-out", "/account").status_code == 303
    assert not stolen.is_in()
    assert not person.is_in()


def test_signing_out_everywhere_ends_every_session_and_allows_a_new_sign_in(
    service: Service, email: str, person: Visitor
) -> None:
    elsewhere = visiting(service)
    elsewhere.sign_in(email, PASSWORD)
    assert elsewhere.is_in()
    assert person.submit("/account/sign-out-everywhere", "/account").status_code == 303
    assert not elsewhere.is_in()
    assert not person.is_in()
    elsewhere.sign_in(email, PASSWORD)
    assert elsewhere.is_in()


def test_disabling_an_account_ends_its_sessions_permanently(
    service: Service, owner: Visitor, email: str, person: Visitor
) -> None:
    stolen = with_cookie(service, person.cookie)
    here = f"/accounts/person?email={email}"
    assert owner.submit("/accounts/disable", here, email=email, reason="left").status_code == 303
    assert not person.is_in()
    assert "Incorrect e-mail address or password" in person.sign_in(email, PASSWORD).text
    assert owner.submit("/accounts/enable", here, email=email).status_code == 303
    assert not stolen.is_in()
    assert person.sign_in(email, PASSWORD).status_code == 303


def test_a_role_change_revokes_rights_but_keeps_the_session(
    owner: Visitor, email: str, person: Visitor
) -> None:
    assert person.page("/keys/new").status_code == 200
    here = f"/accounts/person?email={email}"
    assert owner.submit("/accounts/role", here, email=email, role="auditor").status_code == 303
    assert person.page("/keys/new").status_code == 403
    assert person.page("/keys").status_code == 200


def test_a_tampered_cookie_is_not_signed_in(service: Service, person: Visitor) -> None:
    good = person.cookie
    for bad in (good[:-1] + ("A" if good[-1] != "A" else "B"), good + "A", good.swapcase(), good[:-1], ""):
        assert not with_cookie(service, bad).is_in()
    assert person.is_in()


@pytest.mark.parametrize("path", ["/account/password", "/account/sign-out-everywhere", "/sign-out"])
def test_a_form_without_a_valid_csrf_token_is_rejected(person: Visitor, path: str) -> None:
    for fields in ({}, {"csrf_token": "x"}):
        refused = person.post(person.url + path, data=fields, allow_redirects=False, timeout=60)
        assert refused.status_code == 400
        assert "reload the page" in refused.text
    assert person.is_in()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_from_another_site_is_rejected_even_with_a_valid_token(
    person: Visitor, headers: dict[str, str]
) -> None:
    refused = person.submit("/account/sign-out-everywhere", "/account", headers)
    assert refused.status_code == 403
    assert "came from another site" in refused.text
    assert person.is_in()


def test_a_form_from_this_site_is_accepted_behind_a_tls_terminating_proxy(
    service: Service, email: str
) -> None:
    host = service.url.removeprefix("http://")
    for origin in (f"http://{host}", f"https://{host}"):
        visitor = visiting(service)
        fields = {"email": email, "password": PASSWORD}
        assert visitor.submit("/sign-in", "/sign-in", {"Origin": origin}, **fields).status_code == 303


def test_an_origin_mismatch_behind_a_proxy_names_the_header_to_set(service: Service, email: str) -> None:
    dropped = {"Origin": "http://keys.example:8443", "Host": "keys.example"}
    refused = visiting(service).submit("/sign-in", "/sign-in", dropped, email=email, password=PASSWORD)
    assert refused.status_code == 403
    for words in ("at keys.example:8443", "proxy_set_header Host $http_host", "X-Forwarded-Host"):
        assert words in refused.text
    for passed_on in (
        {"Origin": "http://keys.example:8443", "X-Forwarded-Host": "keys.example:8443"},
        {"Origin": "https://keys.example", "X-Forwarded-Host": "keys.example:443"},
    ):
        answer = visiting(service).submit("/sign-in", "/sign-in", passed_on, email=email, password=PASSWORD)
        assert answer.status_code == 303


def test_bearer_requests_are_accepted_from_any_origin(service: Service) -> None:
    headers = {
        "Authorization": f"Bearer {service.key('keyledger:admin')}",
        "Origin": "https://shop.example",
        "Sec-Fetch-Site": "cross-site",
    }
    made = requests.post(f"{service.url}/v1/keys", json={"name": "n"}, headers=headers, timeout=60)
    assert made.status_code == 201
    key = f"{service.url}/v1/keys/{made.json()['id']}"
    assert requests.patch(key, json={"enabled": False}, headers=headers, timeout=60).status_code == 200


def test_changing_the_password_ends_other_sessions_and_renews_this_one(
    service: Service, email: str, person: Visitor
) -> None:
    elsewhere = visiting(service)
    elsewhere.sign_in(email, PASSWORD)
    stolen = with_cookie(service, person.cookie)
    assert "You're using a temporary password" in person.page("/account").text
    mine = "a password of my own"
    fields = {"current_password": PASSWORD, "password": mine, "repeated": mine}
    assert person.submit("/account/password", "/account", **fields).status_code == 303
    page = person.page("/account").text
    assert "Your password was changed" in page
    assert "temporary password" not in page
    assert not elsewhere.is_in()
    assert not stolen.is_in()
    assert elsewhere.sign_in(email, PASSWORD).status_code == 422
    assert elsewhere.sign_in(email, mine).status_code == 303


@pytest.mark.parametrize(
    ("current", "new", "repeated", "field", "message"),
    [
        (
            "wrong",
            "a password of my own",
            "a password of my own",
            "current_password",
            "your current password",
        ),
        (PASSWORD, "short", "short", "password", "at least 12"),
        (PASSWORD, "a password of my own", "another", "repeated", "match"),
        (PASSWORD, PASSWORD, PASSWORD, "password", "must be different"),
        ("", "a password of my own", "a password of my own", "current_password", "Enter your current"),
    ],
)
def test_an_invalid_password_change_is_rejected_at_its_field(
    service: Service,
    email: str,
    person: Visitor,
    current: str,
    new: str,
    repeated: str,
    field: str,
    message: str,
) -> None:
    fields = {"current_password": current, "password": new, "repeated": repeated}
    refused = person.submit("/account/password", "/account", **fields)
    assert refused.status_code == 422
    said = refused.text.split(f'id="{field}-error"')[1].split("</p>")[0]
    assert message in said
    assert new not in refused.text
    assert person.is_in()
    assert visiting(service).sign_in(email, PASSWORD).status_code == 303


def test_the_cookie_is_secure_and_hsts_is_sent_behind_a_tls_proxy(service: Service, email: str) -> None:
    plain, secure = visiting(service), visiting(service, scheme="https")
    for visitor, marked in ((plain, False), (secure, True)):
        page = visitor.page("/sign-in")
        assert "HttpOnly" in page.headers["Set-Cookie"]
        assert "SameSite=Lax" in page.headers["Set-Cookie"]
        assert ("Secure" in page.headers["Set-Cookie"]) is marked
        assert ("Strict-Transport-Security" in page.headers) is marked
    # Like a browser, Requests sends no secure cookie without TLS, so the test sends it as the proxy would.
    token = page.text.split('name="csrf_token" value="')[1].split('"')[0]
    first = page.headers["Set-Cookie"].partition(";")[0]
    fields = {"email": email, "password": PASSWORD, "csrf_token": token}
    signed_in = secure.post(
        f"{service.url}/sign-in", data=fields, headers={"Cookie": first}, allow_redirects=False, timeout=5
    )
    assert signed_in.status_code == 303
    assert "; Secure" in signed_in.headers["Set-Cookie"]


def test_events_record_the_last_forwarded_ip_address(
    service: Service,
) -> None:
    bearer = {"Authorization": f"Bearer {service.key('keyledger:admin')}"}
    forged = {"X-Forwarded-For": "203.0.113.1, 198.51.100.250"}
    made = requests.post(f"{service.url}/v1/keys", json={"name": "n"}, headers=bearer | forged, timeout=60)
    told = requests.get(f"{service.url}/v1/keys/{made.json()['id']}/history", headers=bearer, timeout=60)
    assert told.json()["events"][0]["request"]["ip"] == "198.51.100.250"


@pytest.mark.parametrize(
    "forwarded", [b"", b"\xc3\xbc, 198.51.100.7", b"203.0.113.1, unknown", b"198.51.100.7,"]
)
def test_a_request_with_an_unreadable_forwarded_ip_is_refused(service: Service, forwarded: bytes) -> None:
    key = service.key("keyledger:admin")
    headers: dict[str, str | bytes | None] = {
        "X-Forwarded-For": forwarded,
        "Authorization": f"Bearer {key}",
    }
    for method, path in (
        ("GET", "/sign-in"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("POST", "/v1/keys/verify"),
        ("GET", "/v1/forward-auth"),
    ):
        body = {"name": "n"} if method == "POST" else None
        answer = requests.request(method, service.url + path, json=body, headers=headers, timeout=60)
        assert (answer.status_code, "X-Forwarded-For" in answer.text) == (400, True)


def test_a_user_agent_is_recorded_as_printable_ascii_or_a_placeholder(service: Service) -> None:
    bearer = {"Authorization": f"Bearer {service.key('keyledger:admin')}"}
    for sent, recorded in (
        (b"curl/8.7.1", "curl/8.7.1"),
        (b"M\xc3\xb6zilla", "(empty or not ASCII)"),
        (b"tab\tbed", "tab\\tbed"),
    ):
        headers = bearer | {"User-Agent": sent}
        made = requests.post(f"{service.url}/v1/keys", json={"name": "n"}, headers=headers, timeout=60)
        history = requests.get(
            f"{service.url}/v1/keys/{made.json()['id']}/history", headers=bearer, timeout=5
        )
        assert history.json()["events"][0]["request"]["user_agent"] == recorded


@pytest.mark.drill
def test_forwarding_headers_are_ignored_without_a_trusted_proxy(tmp_path: Path) -> None:
    alone = Service(tmp_path / "data")
    alone.start()
    try:
        page = Visitor(alone.url, scheme="https").page("/sign-in")
        assert "Secure" not in page.headers["Set-Cookie"]
        assert "Strict-Transport-Security" not in page.headers
        for number in range(50):
            address = f"203.0.113.{number}"
            assert Visitor(alone.url, address).sign_in(f"nobody{number}@x", "x").status_code == 422
        assert Visitor(alone.url, "203.0.113.99").sign_in("nobody@x", "x").status_code == 429
    finally:
        assert alone.stop() == 0


def test_sign_in_limits_apply_to_unknown_accounts_and_spare_signed_in_users(
    service: Service, email: str, person: Visitor
) -> None:
    answers = {}
    for address in (email, f"un{email}"):
        visitor = visiting(service)
        wrong = [visitor.sign_in(address, "wrong password").status_code for _ in range(10)]
        refused = visitor.sign_in(address, PASSWORD)
        assert [*wrong, refused.status_code] == [422] * 10 + [429]
        assert 500 < int(refused.headers["Retry-After"]) <= 600
        assert f'value="{address}"' in refused.text
        assert PASSWORD not in refused.text
        # The account is locked from elsewhere too, and this visitor may try other accounts.
        assert visiting(service).sign_in(address, PASSWORD).status_code == 429
        assert visitor.sign_in(f"other{address}", "wrong password").status_code == 422
        token = refused.text.split('name="csrf_token" value="')[1].split('"')[0]
        answers[address] = refused.text.replace(address, "…").replace(token, "…")
    assert len(set(answers.values())) == 1
    new = {"password": "a password of my own", "repeated": "a password of my own"}
    changed = person.submit("/account/password", "/account", current_password=PASSWORD, **new)
    assert (changed.status_code, changed.headers["Location"]) == (303, "/account")


def entries(service: Service, **query: str) -> list[dict[str, Any]]:
    """The audit log's entries, oldest first."""
    headers = {"Authorization": f"Bearer {service.key('keyledger:audit.read')}"}
    asked = requests.get(
        f"{service.url}/v1/audit/entries", params={"limit": "200", **query}, headers=headers, timeout=5
    )
    assert asked.ok, asked.text
    found: list[dict[str, Any]] = asked.json()["entries"]
    return found[::-1]


def a_minute_passes(service: Service) -> None:
    """Lets the next summary be recorded immediately."""
    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        if claims := [*store.scan_iter("{kl:0}:incidents:told:*")]:
            store.delete(*claims)


def told(service: Service, subject: str, type_: str = "SignInFailed") -> list[dict[str, Any]]:
    """The entries of a type about a subject."""
    return [entry for entry in entries(service, type=type_) if entry["subject"] == subject]


def attempts(found: list[dict[str, Any]]) -> int:
    return sum(entry["data"]["attempts"] for entry in found)


@pytest.mark.drill
def test_many_failures_become_few_events_and_none_is_lost(service: Service, email: str) -> None:
    known, unknown = "192.0.2.17", "192.0.2.18"
    subjects = (f"sign-in:{email}", f"address:{unknown}")
    for address, name in ((known, email), (unknown, f"canary-{email}")):
        visitor = visiting(service, address=address)
        token = visitor.token()
        for _ in range(30):
            fields = {"email": name, "password": "canary", "csrf_token": token}
            visitor.post(f"{service.url}/sign-in", data=fields, timeout=60)
    until(lambda: all(told(service, subject) for subject in subjects), what="the first events")
    a_minute_passes(service)
    until(lambda: all(attempts(told(service, s)) == 30 for s in subjects), what="the last attempts")
    for subject, address in zip(subjects, (known, unknown), strict=True):
        found = told(service, subject)
        assert len(found) <= 3
        for entry in found:
            assert (entry["actor"]["kind"], entry["actor"]["label"]) == ("anonymous", address)
            assert entry["request"]["ip"] == address
    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        assert not store.hgetall("{kl:0}:incidents:counts")
        assert not any(b"canary" in key for key in store.scan_iter())
    for path in service.data_dir.rglob("*"):
        if path.is_file():
            assert b"canary" not in path.read_bytes()
    assert "canary" not in service.output


def test_account_actions_are_in_the_audit_log(
    service: Service, owner: Visitor, email: str, person: Visitor
) -> None:
    here = f"/accounts/person?email={email}"
    owner.submit("/accounts/role", here, email=email, role="auditor")
    owner.submit("/accounts/disable", here, email=email, reason="on leave")
    owner.submit("/accounts/enable", here, email=email)
    person.sign_in(email, PASSWORD)
    person.submit("/account/sign-out-everywhere", "/account")
    types = [
        "AccountAdded",
        "SignedIn",
        "AccountRoleChanged",
        "AccountDisabled",
        "AccountEnabled",
        "SignedIn",
    ]

    def about() -> list[dict[str, Any]]:
        return [entry for entry in entries(service) if entry["subject"].endswith(f":{email}")]

    until(lambda: [entry["type"] for entry in about()] == [*types, "SignedOutEverywhere"], what="the entries")
    by = {entry["type"]: entry["actor"]["label"] for entry in about()}
    assert by["AccountDisabled"] == service.sign_in()[0]
    assert by["SignedIn"] == by["SignedOutEverywhere"] == email


def test_denied_pages_and_api_requests_are_in_the_audit_log(
    service: Service, email: str, person: Visitor
) -> None:
    for _ in range(3):
        assert person.page("/accounts").status_code == 403
    token = service.key("orders:read")
    bearer = {"Authorization": f"Bearer {token}"}
    calls = [
        requests.post(f"{service.url}/v1/keys", json={"name": "n"}, headers=bearer, timeout=60),
        requests.post(f"{service.url}/v1/keys/verify", json={"api_key": "x"}, headers=bearer, timeout=60),
        requests.get(f"{service.url}/v1/keys", headers=bearer, timeout=60),
    ]
    assert [call.status_code for call in calls] == [403] * 3
    denied = {
        (f"access:account:account:{email}", "keyledger:admin"): 3,
        (f"access:key:{token[3:15]}", "keyledger:keys.write"): 1,
        (f"access:key:{token[3:15]}", "keyledger:keys.verify"): 1,
        (f"access:key:{token[3:15]}", "keyledger:keys.read"): 1,
    }

    def found() -> dict[tuple[str, str], int]:
        sums: dict[tuple[str, str], int] = {}
        for entry in entries(service, type="AccessDenied"):
            what = entry["subject"], entry["data"]["scope"]
            sums[what] = sums.get(what, 0) + entry["data"]["attempts"]
        return sums

    until(lambda: denied.keys() <= found().keys(), what="the first events")
    a_minute_passes(service)
    until(lambda: denied.items() <= found().items(), what="all of them")


def test_a_foreign_non_ascii_cookie_is_rejected_with_an_explanation(
    service: Service,
) -> None:
    foreign = {"Cookie": "theme=d\u00fcster".encode()}
    for answer in (
        requests.get(f"{service.url}/sign-in", headers=foreign, timeout=60),
        requests.post(f"{service.url}/sign-in", {"csrf_token": "x"}, headers=foreign, timeout=60),
        requests.get(f"{service.url}/keys", headers=foreign, timeout=60),
    ):
        assert answer.status_code == 400
        assert "cookie with characters outside ASCII" in answer.text
        assert "Delete the cookies of 127.0.0.1" in answer.text
    assert requests.get(f"{service.url}/static/app.css", headers=foreign, timeout=60).status_code == 200
