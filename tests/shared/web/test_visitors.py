"""Requests from visitors who aren't signed in, while the store is unreachable."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import Client, TestResponse

from shared.web.server.context import RequestContext
from shared.web.server.fast_path import Answer, FastPath
from shared.web.server.proxies import TrustedProxies
from tests.support.application import application

_ASKS_THE_STORE = {"/metrics", "/readyz", "/statusz"}  # they report on it, and are kept from outsiders


@pytest.fixture(scope="module")
def app() -> Flask:
    return application()


@pytest.fixture
def visitor(app: Flask) -> FlaskClient:
    return app.test_client()


def addresses(app: Flask) -> Iterator[tuple[str, str]]:
    """Yields every method and path of the application, and some that don't exist."""
    for rule in app.url_map.iter_rules():
        values = dict.fromkeys(rule.arguments, "x")
        path = "/static/app.css" if rule.endpoint == "static" else rule.build(values, append_unknown=False)
        assert path
        for method in rule.methods or ():
            yield method, path if isinstance(path, str) else path[1]
    yield "GET", "/nowhere"
    yield "POST", "/nowhere"
    yield "TRACE", "/keys"


def test_unauthenticated_requests_never_query_the_store(app: Flask, visitor: FlaskClient) -> None:
    seen = set()
    for cookie in (None, "x", "a" * 44):
        for method, path in addresses(app):
            if path in _ASKS_THE_STORE:
                continue
            if cookie:
                visitor.set_cookie(app.session_interface.cookie_name(secure=False), cookie)  # type: ignore[attr-defined]
            answer = visitor.open(path, method=method)
            assert answer.status_code < 500, (method, path, answer.text)
            seen.add(answer.status_code)
            answer.close()
    assert {200, 303, 400, 401, 404, 405} <= seen


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_response_has_each_security_header_once(app: Flask, visitor: FlaskClient, scheme: str) -> None:
    too_large = {"Content-Length": str(10**6)}
    for method, path in [*addresses(app), ("POST", "/sign-in"), ("POST", "/v1/keys")]:
        headers = too_large if (method, path) == ("POST", "/v1/keys") else {}
        answer = visitor.open(path, method=method, base_url=f"{scheme}://localhost", headers=headers)
        assert_secured(answer, scheme)
        answer.close()


def test_internal_errors_also_have_the_security_headers(
    app: Flask, visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.view_functions, "accounts.sign_in", lambda: 1 / 0)
    answer = visitor.get("/sign-in", base_url="https://localhost")
    assert answer.status_code == 500
    assert_secured(answer, "https")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_fast_path_responses_also_have_the_security_headers(scheme: str) -> None:
    fast_path = FastPath(
        lambda *_: [b"behind"], {"/fast": lambda _: Answer([("Content-Type", "text/plain")], b"")}
    )
    assert_secured(Client(fast_path, TestResponse).get("/fast", base_url=f"{scheme}://localhost"), scheme)


@pytest.mark.parametrize("reported", [None, "http", "https"])
def test_the_fast_path_and_flask_send_the_same_headers(app: Flask, reported: str | None) -> None:
    def plain_only(context: RequestContext) -> Answer | None:
        if context.environ["QUERY_STRING"]:
            return None
        return Answer([("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")], b"")

    client = Client(TrustedProxies(FastPath(app.wsgi_app, {"/sign-in": plain_only}), 1), TestResponse)
    sent = {"X-Request-Id": "checkout-42"} | ({"X-Forwarded-Proto": reported} if reported else {})
    fast, flask = client.get("/sign-in", headers=sent), client.get("/sign-in?by=flask", headers=sent)
    assert (fast.data, b"<form" in flask.data) == (b"", True)
    of_flask_alone = {"Content-Length", "Set-Cookie", "Vary"}
    assert sorted(fast.headers) == sorted(
        (name, value) for name, value in flask.headers if name not in of_flask_alone
    )
    assert ("Strict-Transport-Security" in fast.headers) == (reported == "https")


def assert_secured(answer: TestResponse, scheme: str) -> None:
    for name in (
        "Content-Security-Policy",
        "Cross-Origin-Opener-Policy",
        "Referrer-Policy",
        "X-Content-Type-Options",
    ):
        assert len(answer.headers.getlist(name)) == 1, (answer.request.path, name)
    hsts = ["max-age=31536000"] if scheme == "https" else []
    assert answer.headers.getlist("Strict-Transport-Security") == hsts, answer.request.path


def test_the_sign_in_page_and_sign_out_work_while_the_store_is_unreachable(visitor: FlaskClient) -> None:
    form = visitor.get("/sign-in?next=/audit").text
    token = form.split('name="csrf_token" value="')[1].split('"')[0]
    assert visitor.post("/sign-out", data={"csrf_token": token}).status_code == 303
    form = visitor.get("/sign-in").text
    token = form.split('name="csrf_token" value="')[1].split('"')[0]
    # Only the password needs the store, which counts sign-in attempts.
    asked = {"csrf_token": token, "email": "a@b", "password": "x"}
    assert visitor.post("/sign-in", data=asked).status_code == 503


def test_a_sign_in_form_works_only_in_the_browser_that_loaded_it(app: Flask, visitor: FlaskClient) -> None:
    attackers = app.test_client().get("/sign-in").text.split('name="csrf_token" value="')[1].split('"')[0]
    visitor.get("/sign-in")
    asked = {"csrf_token": attackers, "email": "eve@example.com", "password": "x"}
    refused = visitor.post("/sign-in", data=asked)
    assert (refused.status_code, "has expired" in refused.text) == (400, True)
