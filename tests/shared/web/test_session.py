"""Sessions in the store, with a minimal app."""

import hashlib
import re
import time
from typing import Any

import fakeredis
import pytest
from flask import Flask, request, session
from flask.testing import FlaskClient
from flask_wtf.csrf import CSRFProtect, generate_csrf
from redis import ConnectionError as StoreAwayError
from werkzeug.exceptions import InternalServerError
from werkzeug.test import TestResponse

from shared.store.connections import connect
from shared.web.session import ABSOLUTE_LIFE_S, IDLE_LIFE_S, StoredSessions, UnreadableCookieError, renew

HOUR = 60 * 60
SECRET = "a secret of 32 characters at least"
COOKIE = StoredSessions(fakeredis.FakeRedis(), SECRET).cookie_name(secure=False)


class Clock:
    """A clock for the sessions and for the store's own expiry."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def server() -> Any:
    return fakeredis.FakeServer()


@pytest.fixture
def store(server: Any) -> Any:
    return fakeredis.FakeRedis(server=server)


@pytest.fixture
def app(store: Any, clock: Clock) -> Flask:
    app = Flask(__name__)
    app.secret_key = SECRET
    app.session_interface = StoredSessions(store, SECRET, now=clock)

    @app.get("/set/<name>/<value>")
    def set_value(name: str, value: str) -> str:
        if not session:
            renew(session)
        session[name] = value
        return value

    @app.get("/get/<name>")
    def get_value(name: str) -> str:
        return str(session.get(name, "nothing"))

    @app.get("/renew/<name>/<value>")
    def go_on_in_a_new_one(name: str, value: str) -> str:
        renew(session)
        session[name] = value
        return value

    @app.get("/end")
    def end() -> str:
        session.clear()
        return "ended"

    @app.get("/pop/<name>")
    def pop(name: str) -> str:
        return str(session.pop(name, "nothing"))

    @app.get("/none")
    def none() -> str:
        return "no session needed"

    app.add_url_rule("/visit/<name>/<value>", "visit", visit)
    return app


def visit(name: str, value: str) -> str:
    """Sets a session value without a sign-in."""
    session[name] = value
    return value


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def session_id(client: FlaskClient) -> str:
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    return cookie.value


def get(client: FlaskClient, name: str = "name") -> str:
    return client.get(f"/get/{name}").text


def visitor_with(app: Flask, cookie: str) -> FlaskClient:
    client = app.test_client()
    client.set_cookie(COOKIE, cookie)
    return client


def cookies_of(answer: TestResponse) -> list[str]:
    return answer.headers.getlist("Set-Cookie")


def test_session_values_persist_and_are_visible_only_to_their_own_client(
    app: Flask, client: FlaskClient
) -> None:
    client.get("/set/name/Ada")
    assert get(client) == "Ada"
    assert get(app.test_client()) == "nothing"


def test_an_empty_new_session_writes_nothing_and_sets_no_cookie(client: FlaskClient, store: Any) -> None:
    for path in ("/none", "/get/name", "/pop/name", "/end"):
        assert cookies_of(client.get(path)) == []
    assert store.keys() == []


def test_the_cookie_is_http_only_and_same_site(client: FlaskClient) -> None:
    (cookie,) = cookies_of(client.get("/set/name/Ada"))
    assert re.fullmatch(rf"{COOKIE}=[0-9A-Za-z_-]{{43}}; HttpOnly; Path=/; SameSite=Lax", cookie)


def test_the_cookie_of_an_https_request_is_secure_and_bound_to_the_host(app: Flask) -> None:
    for path in ("/set/name/Ada", "/visit/csrf_token/t"):
        (cookie,) = cookies_of(app.test_client().get(path, base_url="https://localhost"))
        assert cookie.startswith(f"__Host-{COOKIE}=")
        assert "; Secure;" in cookie
        assert "; Path=/;" in cookie
        assert "Domain" not in cookie


def test_two_instances_on_one_host_do_not_sign_each_other_out(client: FlaskClient, store: Any) -> None:
    client.get("/set/name/Ada")
    other = Flask("other")
    other.secret_key = "another secret of 32 characters"
    other.session_interface = StoredSessions(store, other.secret_key)

    @other.get("/enter")
    def enter() -> str:
        renew(session)
        session["name"] = "Bob"
        return "entered"

    there = other.test_client()
    there.set_cookie(COOKIE, session_id(client))  # cookies ignore ports
    (cookie,) = cookies_of(there.get("/enter"))
    client.set_cookie(*cookie.partition(";")[0].split("=", 1))
    assert get(client) == "Ada"


def test_a_visitors_session_is_a_signed_cookie_and_is_not_stored(
    app: Flask, client: FlaskClient, store: Any, clock: Clock
) -> None:
    client.get("/visit/csrf_token/planted")
    assert get(client, "csrf_token") == "planted"
    given = session_id(client)
    # The last characters belong to the signature; the very last one has unused bits.
    forged = f"{given[:-5]}{'A' if given[-5] != 'A' else 'B'}{given[-4:]}"
    assert get(visitor_with(app, forged), "csrf_token") == "nothing"
    clock.pass_by(ABSOLUTE_LIFE_S + 1)
    assert get(client, "csrf_token") == "nothing"
    assert store.keys() == []


def test_a_visitors_session_never_holds_an_account(client: FlaskClient) -> None:
    client.get("/visit/account/ada")
    assert get(client, "account") == "nothing"


def test_signing_in_replaces_the_visitors_session(app: Flask, client: FlaskClient, store: Any) -> None:
    client.get("/visit/csrf_token/planted")
    planted = session_id(client)
    client.get("/renew/account/ada")
    assert get(client, "csrf_token") == "nothing"
    assert get(visitor_with(app, planted), "account") == "nothing"
    assert len(store.keys()) == 1


def test_unreadable_cookies_are_an_error_only_where_a_session_is_needed(app: Flask) -> None:
    client = app.test_client(use_cookies=False)
    app.register_error_handler(UnreadableCookieError, lambda _: ("delete your cookies", 400))
    assert client.get("/get/name", environ_overrides={"HTTP_COOKIE": ""}).status_code == 400
    assert client.get("/none", environ_overrides={"HTTP_COOKIE": ""}).status_code == 200


@pytest.mark.parametrize("sent", ["theme=dark;", "a=b; ", ";a=b", "a=b;;c=d"])
def test_a_stray_semicolon_does_not_make_cookies_unreadable(app: Flask, sent: str) -> None:
    client = app.test_client(use_cookies=False)
    assert client.get("/get/name", environ_overrides={"HTTP_COOKIE": sent}).text == "nothing"


def test_the_cookie_is_set_once_and_responses_vary_by_cookie(client: FlaskClient) -> None:
    client.get("/set/name/Ada")
    again = client.get("/set/name/Bob")
    assert cookies_of(again) == []
    assert "Cookie" in again.vary


def test_session_ids_cannot_be_recovered_from_the_store(app: Flask, client: FlaskClient, store: Any) -> None:
    client.get("/set/name/Ada")
    given = session_id(client)
    (key,) = store.keys()
    assert key.decode() == "{kl:0}:session:" + hashlib.sha256(given.encode()).hexdigest()
    assert given.encode() not in store.get(key)
    assert get(visitor_with(app, key.decode().removeprefix("{kl:0}:session:"))) == "nothing"


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "a" * 43, "a" * 44, "a" * 4_000, "../" + "a" * 40, "ä" * 43, '"\\377\\000"', "*" * 43],
)
def test_an_unknown_cookie_gives_an_empty_new_session(app: Flask, store: Any, cookie: str) -> None:
    client = visitor_with(app, cookie)
    assert get(client) == "nothing"
    assert store.keys() == []
    client.get("/set/name/Ada")
    assert session_id(client) != cookie
    assert get(client) == "Ada"


def test_a_malformed_cookie_is_ignored_without_querying_the_store(app: Flask, server: Any) -> None:
    server.connected = False
    assert get(visitor_with(app, "a" * 44)) == "nothing"


def test_a_tampered_cookie_opens_no_session(app: Flask, client: FlaskClient) -> None:
    client.get("/set/name/Ada")
    given = session_id(client)
    for tampered in (
        given[:-1] + ("A" if given[-1] != "A" else "B"),
        given + "A",
        given[:-1],
        given.swapcase(),
    ):
        assert get(visitor_with(app, tampered)) == "nothing"


def test_a_renewed_session_keeps_neither_id_nor_content_and_ends_the_old_one(
    app: Flask, client: FlaskClient, store: Any
) -> None:
    client.get("/set/planted/yes")
    planted = session_id(client)
    client.get("/renew/account/ada")
    assert session_id(client) != planted
    assert get(client, "account") == "ada"
    assert get(client, "planted") == "nothing"
    attacker = visitor_with(app, planted)
    assert get(attacker, "account") == get(attacker, "planted") == "nothing"
    assert len(store.keys()) == 1


@pytest.mark.parametrize("end", ["/end", "/pop/account"])
def test_an_ended_session_is_deleted_from_the_store_and_the_browser(
    app: Flask, client: FlaskClient, store: Any, end: str
) -> None:
    client.get("/set/account/ada")
    stolen = session_id(client)
    client.get(end)
    assert client.get_cookie(COOKIE) is None
    assert store.keys() == []
    assert get(visitor_with(app, stolen), "account") == "nothing"


@pytest.mark.parametrize("late", ["/look", "/change"])
def test_a_request_in_progress_does_not_restore_an_ended_session(
    app: Flask, client: FlaskClient, store: Any, clock: Clock, late: str
) -> None:
    def end_meanwhile() -> str:
        visitor_with(app, request.cookies[COOKIE]).get("/end")
        return "too late"

    @app.get("/look")
    def look() -> str:
        assert session["account"] == "ada"
        return end_meanwhile()

    @app.get("/change")
    def change() -> str:
        session["name"] = "Ada"
        return end_meanwhile()

    client.get("/set/account/ada")
    stolen = session_id(client)
    clock.pass_by(5 * 60)  # so that a mere look moves the idle expiry
    assert client.get(late).text == "too late"
    assert store.keys() == []
    assert get(visitor_with(app, stolen), "account") == "nothing"


def test_a_read_only_request_does_not_undo_a_concurrent_change(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    @app.get("/look")
    def look() -> str:
        assert session["name"] == "Ada"
        visitor_with(app, request.cookies[COOKIE]).get("/set/name/Bob")
        return "looked"

    client.get("/set/name/Ada")
    clock.pass_by(5 * 60)
    client.get("/look")
    assert get(client) == "Bob"


def test_an_idle_session_expires(client: FlaskClient, clock: Clock) -> None:
    client.get("/set/name/Ada")
    clock.pass_by(IDLE_LIFE_S - 1)
    assert get(client) == "Ada"
    clock.pass_by(IDLE_LIFE_S + 1)
    assert get(client) == "nothing"


def test_a_session_expires_at_its_absolute_limit_despite_activity(
    client: FlaskClient, clock: Clock, store: Any
) -> None:
    client.get("/set/name/Ada")
    for hour in range(1, 12):
        clock.pass_by(HOUR)
        assert client.get(f"/set/hour/{hour}").status_code == 200
        assert get(client) == "Ada"
    assert 0 < store.ttl(store.keys()[0]) <= HOUR
    clock.pass_by(HOUR + 1)
    assert get(client) == "nothing"
    assert store.keys() == []


def test_the_absolute_limit_applies_even_if_the_store_keeps_the_record(
    client: FlaskClient, clock: Clock, store: Any
) -> None:
    client.get("/set/name/Ada")
    store.persist(store.keys()[0])
    clock.pass_by(ABSOLUTE_LIFE_S)
    assert get(client) == "nothing"


def test_a_renewed_session_has_a_full_lifetime(client: FlaskClient, clock: Clock) -> None:
    client.get("/set/name/Ada")
    for _ in range(7):
        clock.pass_by(1.5 * HOUR)
        get(client)
    client.get("/renew/name/Ada")
    clock.pass_by(1.9 * HOUR)
    assert get(client) == "Ada"


def test_reading_a_session_writes_no_more_than_once_a_minute(
    client: FlaskClient, clock: Clock, store: Any
) -> None:
    client.get("/set/name/Ada")
    (key,) = store.keys()
    clock.pass_by(50)
    get(client)
    assert store.ttl(key) == IDLE_LIFE_S - 50
    clock.pass_by(20)
    get(client)
    assert store.ttl(key) == IDLE_LIFE_S


def test_a_forged_session_record_gives_an_empty_new_session(
    app: Flask, client: FlaskClient, store: Any
) -> None:
    client.get("/set/name/Ada")
    (key,) = store.keys()
    real = store.get(key)
    code, _, content = real.partition(b" ")
    for body in (
        b"",
        b"\x80\x04pickle",
        b"[]",
        content,
        b"0" * 64 + b" " + content,
        code + b" " + content.replace(b"Ada", b"Bob"),
        "\u00e9".encode() + b" " + content,
    ):
        store.set(key, body)
        assert get(visitor_with(app, session_id(client))) == "nothing"
    store.delete(key)
    store.hset(key, "name", "Ada")
    assert get(visitor_with(app, session_id(client))) == "nothing"
    store.delete(key)
    store.set(key, real)
    assert get(client) == "Ada"


def test_a_record_copied_from_another_session_is_rejected(
    app: Flask, client: FlaskClient, store: Any
) -> None:
    client.get("/set/name/Ada")
    (victims,) = store.keys()
    attacker = app.test_client()
    attacker.get("/set/name/Eve")
    (own,) = {*store.keys()} - {victims}
    store.set(own, store.get(victims))
    assert get(attacker) == "nothing"


def test_an_unavailable_store_raises_an_error_that_a_handler_can_map(
    app: Flask, client: FlaskClient, server: Any
) -> None:
    app.register_error_handler(StoreAwayError, lambda _: ("the store is away", 503))
    client.get("/set/name/Ada")
    server.connected = False
    assert client.get("/get/name").status_code == 503
    assert client.get("/set/name/Bob").status_code == 503
    assert client.get("/none").status_code == 200
    server.connected = True
    assert get(client) == "Ada"


def test_a_store_failure_while_saving_a_session_reaches_the_handler_of_error_500(
    app: Flask, client: FlaskClient, server: Any
) -> None:
    failures = []

    # Flask passes errors that occur after the view only to the handler of error 500.
    @app.errorhandler(InternalServerError)
    def failed_late(error: InternalServerError) -> tuple[str, int]:
        failures.append(error.original_exception)
        return "the store is away", 503

    @app.after_request
    def lose_the_store(response: Any) -> Any:
        server.connected = False
        return response

    answer = client.get("/set/name/Ada")
    assert (answer.status_code, cookies_of(answer)) == (503, [])
    (failure,) = failures
    assert isinstance(failure, StoreAwayError)


def test_a_failed_save_of_a_session_is_not_retried(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def fail(*_: Any) -> None:
        tries.append("once")
        raise StoreAwayError

    monkeypatch.setattr(StoredSessions, "_begin", fail)
    assert client.get("/set/name/Ada").status_code == 500
    assert tries == ["once"]


def test_the_repr_of_a_session_shows_neither_id_nor_content(app: Flask, client: FlaskClient) -> None:
    client.get("/set/name/Ada")
    with client:
        get(client)
        shown = f"{session!r} {session.record!r} {app.session_interface!r}"  # type: ignore[attr-defined]
    assert session_id(client) not in shown
    assert "Ada" not in shown


def test_the_test_client_can_open_a_session_transaction(client: FlaskClient) -> None:
    with client.session_transaction() as opened:
        renew(opened)
        opened["name"] = "Ada"
    assert get(client) == "Ada"


@pytest.fixture
def protected(app: Flask) -> FlaskClient:
    CSRFProtect(app)
    app.add_url_rule("/form", "form", generate_csrf)
    app.add_url_rule("/form", "post", lambda: "done", methods=["POST"])
    return app.test_client()


def test_a_form_with_the_csrf_token_of_its_session_is_accepted(protected: FlaskClient) -> None:
    token = protected.get("/form").text
    for _ in range(2):
        assert protected.post("/form", data={"csrf_token": token}).text == "done"


def test_a_form_without_a_csrf_token_of_the_current_session_is_rejected(
    app: Flask, protected: FlaskClient
) -> None:
    own, anothers = protected.get("/form").text, app.test_client().get("/form").text
    assert protected.post("/form").status_code == 400
    assert protected.post("/form", data={"csrf_token": anothers}).status_code == 400
    assert app.test_client().post("/form", data={"csrf_token": own}).status_code == 400
    protected.get("/renew/account/ada")
    assert protected.post("/form", data={"csrf_token": own}).status_code == 400


def test_a_session_is_saved_even_if_the_store_is_out_of_memory(valkey_url: str) -> None:
    with connect(valkey_url) as full:
        full.flushall()
        app = Flask(__name__)
        app.session_interface = StoredSessions(full, SECRET)

        @app.get("/sign-in")
        def sign_in() -> str:
            renew(session)
            session["account"] = "ada"
            return "in"

        @app.get("/more")
        def more() -> str:
            session["csrf_token"] = "t"
            return str(session["account"])

        full.config_set("maxmemory", "1")
        try:
            client = app.test_client()
            assert client.get("/sign-in").status_code == 200
            assert client.get("/more").text == "ada"
            assert client.get("/more").text == "ada"
        finally:
            full.config_set("maxmemory", "0")
