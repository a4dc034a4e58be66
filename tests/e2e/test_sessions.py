"""Sessions, forms and tries to sign in, over real HTTP: what a thief or another site may attempt."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.real import Service, until
from tests.web_client import Visitor

PASSWORD = "a long password"
_numbers = count(1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A Keyledger behind a proxy: these tests are the proxy, and say where visitors come from."""
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
    """The address of a person who may sign in, as a developer."""
    address = f"person{next(_numbers)}@example.com"
    return service.account(address, "developer", PASSWORD)


@pytest.fixture
def person(service: Service, email: str) -> Visitor:
    visitor = visiting(service)
    assert visitor.sign_in(email, PASSWORD).status_code == 303
    return visitor


def visiting(service: Service, **options: str) -> Visitor:
    """Somebody at an address of their own."""
    return Visitor(service.url, options.pop("address", f"198.51.100.{next(_numbers)}"), **options)


def with_cookie(service: Service, cookie: str) -> Visitor:
    """A browser with somebody's cookie."""
    thief = visiting(service)
    thief.page("/sign-in")
    (own,) = thief.cookies.keys()
    thief.cookies.set(own, cookie, domain="127.0.0.1", path="/")
    return thief


def test_a_planted_session_is_not_taken_over_and_a_new_id_comes_with_the_sign_in(
    service: Service, email: str
) -> None:
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


def test_a_cookie_is_worth_nothing_after_signing_out(service: Service, person: Visitor) -> None:
    stolen = with_cookie(service, person.cookie)
    assert stolen.is_in()
    assert person.submit("/sign-out", "/account").status_code == 303
    assert not stolen.is_in()
    assert not person.is_in()


def test_signing_out_everywhere_ends_every_session_and_the_next_sign_in_is_good(
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


def test_the_session_of_a_disabled_account_is_dead_at_once_and_stays_so(
    service: Service, owner: Visitor, email: str, person: Visitor
) -> None:
    stolen = with_cookie(service, person.cookie)
    here = f"/accounts/person?email={email}"
    assert owner.submit("/accounts/disable", here, email=email, reason="left").status_code == 303
    assert not person.is_in()
    assert "is not right" in person.sign_in(email, PASSWORD).text
    assert owner.submit("/accounts/enable", here, email=email).status_code == 303
    assert not stolen.is_in()
    assert person.sign_in(email, PASSWORD).status_code == 303


def test_the_rights_of_a_person_are_gone_with_the_role_and_the_session_is_not(
    owner: Visitor, email: str, person: Visitor
) -> None:
    assert person.page("/keys/new").status_code == 200
    here = f"/accounts/person?email={email}"
    assert owner.submit("/accounts/role", here, email=email, role="auditor").status_code == 303
    assert person.page("/keys/new").status_code == 403
    assert person.page("/keys").status_code == 200


def test_a_tampered_cookie_is_nobody(service: Service, person: Visitor) -> None:
    good = person.cookie
    for bad in (good[:-1] + ("A" if good[-1] != "A" else "B"), good + "A", good.swapcase(), good[:-1], ""):
        assert not with_cookie(service, bad).is_in()
    assert person.is_in()


@pytest.mark.parametrize("path", ["/account/password", "/account/sign-out-everywhere", "/sign-out"])
def test_a_form_without_the_sessions_token_changes_nothing(person: Visitor, path: str) -> None:
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
def test_a_form_of_another_site_is_refused_even_with_the_right_token(
    person: Visitor, headers: dict[str, str]
) -> None:
    refused = person.submit("/account/sign-out-everywhere", "/account", headers)
    assert refused.status_code == 403
    assert "came from another site" in refused.text
    assert person.is_in()


def test_a_form_of_this_site_is_taken_also_where_a_proxy_ended_tls(service: Service, email: str) -> None:
    host = service.url.removeprefix("http://")
    for origin in (f"http://{host}", f"https://{host}"):
        visitor = visiting(service)
        fields = {"email": email, "password": PASSWORD}
        assert visitor.submit("/sign-in", "/sign-in", {"Origin": origin}, **fields).status_code == 303


def test_behind_a_proxy_that_drops_the_port_the_refusal_says_which_header_to_set(
    service: Service, email: str
) -> None:
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


def test_a_call_by_bearer_may_come_from_anywhere(service: Service) -> None:
    headers = {
        "Authorization": f"Bearer {service.key('keyledger:admin')}",
        "Origin": "https://shop.example",
        "Sec-Fetch-Site": "cross-site",
    }
    made = requests.post(f"{service.url}/v1/keys", json={"name": "n"}, headers=headers, timeout=60)
    assert made.status_code == 201
    key = f"{service.url}/v1/keys/{made.json()['id']}"
    assert requests.patch(key, json={"enabled": False}, headers=headers, timeout=60).status_code == 200


def test_another_password_ends_the_other_sessions_and_this_one_goes_on_under_a_new_id(
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
    assert "Your password is changed" in page
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
        (PASSWORD, "a password of my own", "another", "repeated", "not the same"),
        (PASSWORD, PASSWORD, PASSWORD, "password", "must be different"),
        ("", "a password of my own", "a password of my own", "current_password", "Enter your current"),
    ],
)
def test_a_password_that_cannot_be_taken_is_told_at_its_field(
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


def test_behind_a_proxy_with_tls_the_cookie_is_secure_and_the_site_stays_with_tls(
    service: Service, email: str
) -> None:
    plain, secure = visiting(service), visiting(service, scheme="https")
    for visitor, marked in ((plain, False), (secure, True)):
        page = visitor.page("/sign-in")
        assert "HttpOnly" in page.headers["Set-Cookie"]
        assert "SameSite=Lax" in page.headers["Set-Cookie"]
        assert ("Secure" in page.headers["Set-Cookie"]) is marked
        assert ("Strict-Transport-Security" in page.headers) is marked
    # Requests keeps a secure cookie from a site without TLS, as a browser does: here the test is the proxy.
    token = page.text.split('name="csrf_token" value="')[1].split('"')[0]
    first = page.headers["Set-Cookie"].partition(";")[0]
    fields = {"email": email, "password": PASSWORD, "csrf_token": token}
    signed_in = secure.post(
        f"{service.url}/sign-in", data=fields, headers={"Cookie": first}, allow_redirects=False, timeout=5
    )
    assert signed_in.status_code == 303
    assert "; Secure" in signed_in.headers["Set-Cookie"]


def test_behind_a_proxy_events_tell_where_a_call_came_from_and_only_the_last_word_counts(
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
def test_a_client_whose_address_cannot_be_read_is_refused_and_not_taken_for_the_proxy(
    service: Service, forwarded: bytes
) -> None:
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


def test_a_user_agent_is_recorded_in_printable_ascii_or_said_to_be_something_else(service: Service) -> None:
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
def test_without_a_trusted_proxy_nobodys_word_is_taken(tmp_path: Path) -> None:
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


def test_tries_are_limited_for_known_and_unknown_alike_and_who_is_signed_in_changes_the_password(
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
        # Elsewhere the account is just as closed, and this visitor may go on with others.
        assert visiting(service).sign_in(address, PASSWORD).status_code == 429
        assert visitor.sign_in(f"other{address}", "wrong password").status_code == 422
        token = refused.text.split('name="csrf_token" value="')[1].split('"')[0]
        answers[address] = refused.text.replace(address, "…").replace(token, "…")
    assert len(set(answers.values())) == 1
    new = {"password": "a password of my own", "repeated": "a password of my own"}
    changed = person.submit("/account/password", "/account", current_password=PASSWORD, **new)
    assert (changed.status_code, changed.headers["Location"]) == (303, "/account")


def entries(service: Service, **query: str) -> list[dict[str, Any]]:
    """What the audit log has, oldest first."""
    headers = {"Authorization": f"Bearer {service.key('keyledger:audit.read')}"}
    asked = requests.get(
        f"{service.url}/v1/audit/entries", params={"limit": "200", **query}, headers=headers, timeout=5
    )
    assert asked.ok, asked.text
    found: list[dict[str, Any]] = asked.json()["entries"]
    return found[::-1]


def a_minute_passes(service: Service) -> None:
    """As far as the next summary is concerned."""
    with connect(EmbeddedServer.in_directory(service.data_dir).url) as store:
        if claims := [*store.scan_iter("{kl:0}:incidents:told:*")]:
            store.delete(*claims)


def told(service: Service, subject: str, type_: str = "SignInFailed") -> list[dict[str, Any]]:
    """The entries of a kind about a subject."""
    return [entry for entry in entries(service, type=type_) if entry["subject"] == subject]


def attempts(found: list[dict[str, Any]]) -> int:
    return sum(entry["data"]["attempts"] for entry in found)


@pytest.mark.drill
def test_many_failures_are_few_events_and_none_is_lost(service: Service, email: str) -> None:
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


def test_what_people_do_with_their_accounts_is_in_the_audit_log(
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


def test_a_denied_page_and_denied_calls_are_in_the_audit_log(
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


def test_a_cookie_of_another_program_that_is_not_ascii_is_named_as_what_keeps_people_from_signing_in(
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
