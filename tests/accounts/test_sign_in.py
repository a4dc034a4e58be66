"""Signing in and out in a browser's way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import fakeredis
import pytest
from argon2 import PasswordHasher
from flask import Flask, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from services.accounts.app import register
from services.accounts.commands import Accounts
from services.accounts.credentials import Passwords
from shared.events import Request
from shared.identity import ADMIN, Principal
from shared.ledger import Ledger
from shared.web.session import COOKIE, StoredSessions

PASSWORD = "correct horse battery"
NOT_RIGHT = "The e-mail address or the password is not right. Check both and try again."
# The words of the page are another's; these are what it is given.
TEMPLATE = """
email={{ form.email }}
{% for field, messages in errors.items() %}{{ field }}: {{ messages | join(" ") | safe }}
{% endfor %}next={{ next | safe }}
"""


@pytest.fixture
def store() -> Any:
    return fakeredis.FakeRedis()


@pytest.fixture
def app(store: Any, tmp_path: Path) -> Flask:
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts/sign_in.html").write_text(TEMPLATE)
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    accounts = Accounts(Ledger(store), Passwords(hasher), lambda: "e1")
    operator = Principal(
        kind="operator", id="operator", label="operator", workspace="default", scopes=frozenset({ADMIN})
    )
    accounts.add(operator, "ada@example.com", "owner", PASSWORD, Request(id="r1", ip=None, user_agent=None))
    app = Flask(__name__, template_folder=tmp_path)
    app.session_interface = StoredSessions(store)
    register(app, accounts)
    app.add_url_rule("/whoami", "whoami", lambda: session.get("account", "nobody"))
    return app


@pytest.fixture
def client(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client


def sign_in(
    client: FlaskClient, email: str = "ada@example.com", password: str = PASSWORD, **more: str
) -> TestResponse:
    return client.post("/sign-in", data={"email": email, "password": password, **more})


def who(client: FlaskClient) -> str:
    return client.get("/whoami").text


def test_the_form_is_shown_empty(client: FlaskClient) -> None:
    page = client.get("/sign-in")
    assert page.status_code == 200
    assert page.text.strip() == "email=\nnext=/"


def test_the_right_password_signs_in_and_leads_home(client: FlaskClient) -> None:
    answer = sign_in(client, " Ada@Example.com ")
    assert (answer.status_code, answer.location) == (303, "/")
    assert who(client) == "account:ada@example.com"


def test_a_wrong_password_and_an_unknown_account_get_the_same_answer(client: FlaskClient) -> None:
    wrong = sign_in(client, password="wrong password")
    unknown = sign_in(client, "bob@example.com")
    for answer, email in ((wrong, "ada@example.com"), (unknown, "bob@example.com")):
        assert answer.status_code == 422
        assert answer.text.strip().splitlines() == [f"email={email}", f"form: {NOT_RIGHT}", "next=/"]
    assert who(client) == "nobody"
    assert client.get_cookie(COOKIE) is None


@pytest.mark.parametrize(
    ("form", "messages"),
    [
        ({}, ["email: Enter your e-mail address.", "password: Enter your password."]),
        (
            {"email": " \t", "password": ""},
            ["email: Enter your e-mail address.", "password: Enter your password."],
        ),
        ({"email": "ada@example.com"}, ["password: Enter your password."]),
        ({"email": "a" * 255, "password": "x"}, ["email: It may have 254 characters at most."]),
        ({"email": "a@b", "password": "x" * 1025}, ["password: It may have 1,024 characters at most."]),
    ],
)
def test_what_is_missing_or_too_long_is_said_at_its_field(
    client: FlaskClient, form: dict[str, str], messages: list[str]
) -> None:
    answer = client.post("/sign-in", data=form)
    assert answer.status_code == 422
    assert answer.text.strip().splitlines()[1:-1] == messages


def test_what_was_typed_is_kept_but_for_the_password(client: FlaskClient) -> None:
    page = sign_in(client, "<b>Ada</b>", "canary of a wrong password", next="/audit").text
    assert "email=&lt;b&gt;Ada&lt;/b&gt;" in page
    assert "next=/audit" in page
    assert "canary" not in page


def test_a_session_from_before_the_sign_in_is_not_the_one_after(app: Flask, client: FlaskClient) -> None:
    with client.session_transaction() as planted:
        planted["planted"] = "by an attacker"
    before = client.get_cookie(COOKIE)
    assert before is not None
    sign_in(client)
    after = client.get_cookie(COOKIE)
    assert after is not None
    assert after.value != before.value
    attacker = app.test_client()
    attacker.set_cookie(COOKIE, before.value)
    assert who(attacker) == "nobody"
    with client.session_transaction() as current:
        assert dict(current) == {"account": "account:ada@example.com"}


def test_after_signing_out_the_cookie_opens_nothing(app: Flask, client: FlaskClient, store: Any) -> None:
    sign_in(client)
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    answer = client.post("/sign-out")
    assert (answer.status_code, answer.location) == (303, "/sign-in")
    assert client.get_cookie(COOKIE) is None
    assert store.keys("*:session:*") == []
    replayed = app.test_client()
    replayed.set_cookie(COOKIE, cookie.value)
    assert who(replayed) == "nobody"


def test_a_mere_link_signs_nobody_out(client: FlaskClient) -> None:
    sign_in(client)
    assert client.get("/sign-out").status_code == 405
    assert who(client) == "account:ada@example.com"


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/audit",
        "/keys/3fA9?after=7&search=a%20b",
        "/keys?search=%2F%2Fevil.example",
        "/schlüssel",
        "/@evil",
    ],
)
def test_signing_in_leads_back_to_a_page_of_this_site(client: FlaskClient, target: str) -> None:
    for form, query in (({"next": target}, {}), ({}, {"next": target})):
        answer = client.post(
            "/sign-in", data={"email": "ada@example.com", "password": PASSWORD, **form}, query_string=query
        )
        assert urlsplit(urljoin("http://localhost/sign-in", answer.location)).netloc == "localhost"
        assert answer.location == target.replace("ü", "%C3%BC")


@pytest.mark.parametrize(
    "target",
    [
        "",
        "keys",
        "//evil.example",
        "///evil.example",
        "https://evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "/\\evil.example",
        "\\\\evil.example",
        "/keys\\..\\evil",
        "/\t/evil.example",
        "/\n/evil.example",
        "\t//evil.example",
        " //evil.example",
        "/keys\r\nSet-Cookie: a=b",
        "%2F%2Fevil.example",
        "%68ttps://evil.example",
    ],
)
def test_signing_in_leads_to_no_other_site(client: FlaskClient, target: str) -> None:
    assert client.get("/sign-in", query_string={"next": target}).text.strip().endswith("next=/")
    assert sign_in(client, next=target).location == "/"


@pytest.mark.parametrize(
    "raw", ["%2F%2Fevil.example", "%2F%5Cevil.example", "%2F%09%2Fevil.example", "%20//evil"]
)
def test_an_encoded_address_of_another_site_is_no_way_out(client: FlaskClient, raw: str) -> None:
    assert client.get(f"/sign-in?next={raw}").text.strip().endswith("next=/")


def test_asking_only_for_the_head_of_the_form_is_no_attempt(client: FlaskClient) -> None:
    assert client.head("/sign-in").status_code == 200
