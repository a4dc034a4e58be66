"""Signing in and out from a browser, and the events recorded for it."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event as Stop
from threading import Thread
from typing import Any
from urllib.parse import urljoin, urlsplit

import fakeredis
import pytest
from argon2 import PasswordHasher
from flask import Flask, session
from flask.testing import FlaskClient
from limits import parse
from redis import ConnectionError as StoreAwayError
from werkzeug.test import TestResponse

from services.accounts.commands import Accounts
from services.accounts.login_throttle import LoginThrottle, TooManyAttemptsError
from services.accounts.model.account import OwnAccountError
from services.accounts.passwords import HasherBusyError, Passwords
from services.accounts.read_model.account_list import AccountList
from services.accounts.security_events import SecurityEventAggregator
from services.accounts.sign_in import SignIn
from services.accounts.web.register import register
from shared.eventstore.codec import decode
from shared.eventstore.command_handler import Journal
from shared.eventstore.envelope import Request, UnreadableEventError, enveloped
from shared.eventstore.events import KeyToggled, SignedIn, SignInFailed
from shared.eventstore.ledger import Ledger, VersionConflictError, credential_key
from shared.identity import ADMIN, Principal
from shared.store.connections import connect
from shared.text.ip_addresses import canonical_ip
from shared.web.access import Access, attach
from shared.web.server.limits import Limits
from shared.web.session import StoredSessions
from tests.support.processes import until

PASSWORD = "correct horse battery"
SECRET = "a secret of 32 characters at least"
COOKIE = StoredSessions(fakeredis.FakeRedis(), SECRET).cookie_name(secure=False)
OPERATOR = Principal(
    kind="operator", id="operator", label="operator", workspace="default", scopes=frozenset({ADMIN})
)
REQUEST = Request(id="r1", ip="192.0.2.1", user_agent=None)
NOT_RIGHT = "Incorrect e-mail address or password. Check both and try again."
# A minimal template that renders only the values the page is given.
TEMPLATE = """
email={{ form.email }}
{% for field, messages in errors.items() %}{{ field }}: {{ messages | join(" ") | safe }}
{% endfor %}next={{ next | safe }}
"""


@pytest.fixture
def store() -> Any:
    return fakeredis.FakeRedis()


@pytest.fixture
def app(store: Any, tmp_path: Path, accounts: Accounts, incidents: SecurityEventAggregator) -> Flask:
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts/sign_in.html").write_text(TEMPLATE)
    accounts.add(OPERATOR, "ada@example.com", "owner", PASSWORD, REQUEST)
    app = Flask(__name__, template_folder=tmp_path)
    app.session_interface = StoredSessions(store, SECRET)
    register(app, accounts, sign_in_to(accounts, incidents), AccountList(store, accounts.ledger))
    app.add_url_rule("/whoami", "whoami", lambda: session.get("account", "nobody"))
    return app


@pytest.fixture
def hasher() -> "CountingHasher":
    return CountingHasher()


@pytest.fixture
def accounts(store: Any, hasher: "CountingHasher") -> Accounts:
    ids = map("e{}".format, count(1))
    attempts = LoginThrottle(store, parse("3/10 minutes"))
    return Accounts(Ledger(store), Passwords(hasher), attempts, lambda: next(ids))


@pytest.fixture
def incidents(store: Any, accounts: Accounts) -> SecurityEventAggregator:
    return SecurityEventAggregator(store, Journal(accounts.ledger, accounts.new_id))


def sign_in_to(accounts: Accounts, incidents: SecurityEventAggregator) -> SignIn:
    journal = Journal(accounts.ledger, accounts.new_id)
    return SignIn(accounts.ledger, accounts.passwords, accounts.attempts, incidents, journal)


class CountingHasher(PasswordHasher):
    """A cheap hasher that counts its verifications."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002
        self.verified += 1
        return super().verify(hash, password)


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


def test_the_sign_in_form_starts_empty(client: FlaskClient) -> None:
    page = client.get("/sign-in")
    assert page.status_code == 200
    assert page.text.strip() == "email=\nnext=/"


def test_the_right_password_signs_in_and_redirects_home(client: FlaskClient) -> None:
    answer = sign_in(client, " Ada@Example.com ")
    assert (answer.status_code, answer.location) == (303, "/")
    assert who(client) == "account:ada@example.com"


@pytest.mark.parametrize("added", ["ann@münchen.example", "ann@xn--mnchen-3ya.example"])
@pytest.mark.parametrize("typed", ["Ann@MÜNCHEN.example", "ann@xn--mnchen-3ya.example"])
def test_either_spelling_of_an_international_domain_signs_in(
    client: FlaskClient, accounts: Accounts, hasher: CountingHasher, added: str, typed: str
) -> None:
    accounts.add(OPERATOR, added, "developer", PASSWORD, REQUEST)
    for spelling in (typed, added, typed):  # tries by either are tries at the one account
        assert sign_in(client, spelling, "wrong password").status_code == 422
    assert sign_in(client, added, "wrong password").status_code == 429
    assert hasher.verified == 3
    accounts.attempts.signed_in("account:ann@münchen.example", "127.0.0.1")
    assert sign_in(client, typed).status_code == 303
    assert who(client) == "account:ann@münchen.example"
    assert accounts.ledger.version("sign-in:ann@münchen.example") == 1


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
        ({"email": "a" * 255, "password": "x"}, ["email: Use up to 254 characters."]),
        ({"email": "a@b", "password": "x" * 1025}, ["password: Use up to 1,024 characters."]),
    ],
)
def test_missing_and_too_long_values_are_reported_at_their_fields(
    client: FlaskClient, form: dict[str, str], messages: list[str]
) -> None:
    answer = client.post("/sign-in", data=form)
    assert answer.status_code == 422
    assert answer.text.strip().splitlines()[1:-1] == messages


def test_a_rejected_form_keeps_its_values_except_the_password(client: FlaskClient) -> None:
    page = sign_in(client, "<b>Ada</b>", "canary of a wrong password", next="/audit").text
    assert "email=&lt;b&gt;Ada&lt;/b&gt;" in page
    assert "next=/audit" in page
    assert "canary" not in page


def test_signing_in_starts_a_new_session(app: Flask, client: FlaskClient) -> None:
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
        assert current.pop("_flashes")  # that the password is a given one
        assert current.pop("name")
        assert dict(current) == {"account": "account:ada@example.com", "account_version": 1}


def test_a_cookie_is_invalid_after_signing_out(app: Flask, client: FlaskClient, store: Any) -> None:
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


def test_a_get_request_does_not_sign_out(client: FlaskClient) -> None:
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
def test_signing_in_redirects_to_the_requested_page_of_this_site(client: FlaskClient, target: str) -> None:
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
def test_signing_in_does_not_redirect_to_another_site(client: FlaskClient, target: str) -> None:
    assert client.get("/sign-in", query_string={"next": target}).text.strip().endswith("next=/")
    assert sign_in(client, next=target).location == "/"


@pytest.mark.parametrize(
    "raw", ["%2F%2Fevil.example", "%2F%5Cevil.example", "%2F%09%2Fevil.example", "%20//evil"]
)
def test_an_encoded_url_of_another_site_is_not_used_as_redirect(client: FlaskClient, raw: str) -> None:
    assert client.get(f"/sign-in?next={raw}").text.strip().endswith("next=/")


def test_a_head_request_for_the_form_succeeds(client: FlaskClient) -> None:
    assert client.head("/sign-in").status_code == 200


def test_a_sign_in_is_recorded_under_its_own_subject(client: FlaskClient, accounts: Accounts) -> None:
    sign_in(client)
    (event,) = accounts.ledger.history("sign-in:ada@example.com")
    assert (event.data, event.workspace, event.version) == (SignedIn(), "default", 1)
    assert (event.actor.kind, event.actor.id) == ("account", "account:ada@example.com")
    assert event.request.ip == "127.0.0.1"
    assert len(accounts.ledger.history("account:ada@example.com")) == 1


def test_only_a_temporary_password_is_mentioned_after_signing_in(
    client: FlaskClient, accounts: Accounts
) -> None:
    sign_in(client)
    with client.session_transaction() as current:
        assert "temporary password" in current["_flashes"][0][1]
    ada = accounts.principal_of("account:ada@example.com", 1)
    assert ada
    accounts.change_password(ada, PASSWORD, "a password of my own", REQUEST)
    sign_in(client, password="a password of my own")
    with client.session_transaction() as current:
        assert "_flashes" not in current


def disabled(accounts: Accounts, _store: Any) -> None:
    accounts.disable(OPERATOR, "ada@example.com", "", REQUEST)


def without_password(_accounts: Accounts, store: Any) -> None:
    store.delete(credential_key("account:ada@example.com"))


def without_account(accounts: Accounts, store: Any) -> None:
    store.set(credential_key("account:bob@example.com"), accounts.passwords.hash_password(PASSWORD))


@pytest.mark.parametrize(
    ("email", "password", "before"),
    [
        ("ada@example.com", "wrong password", None),
        ("bob@example.com", PASSWORD, None),
        ("ada@example.com", PASSWORD, disabled),
        ("ada@example.com", PASSWORD, without_password),
        ("bob@example.com", PASSWORD, without_account),
        ("no address", PASSWORD, None),
        ("a\nb", PASSWORD, None),
    ],
)
def test_every_failed_sign_in_gets_the_same_answer_and_costs_the_same_work(
    client: FlaskClient,
    accounts: Accounts,
    store: Any,
    hasher: CountingHasher,
    email: str,
    password: str,
    before: Any,
) -> None:
    if before:
        before(accounts, store)
    answer = sign_in(client, email, password)
    assert (answer.status_code, hasher.verified) == (422, 1)
    assert f"form: {NOT_RIGHT}" in answer.text
    assert who(client) == "nobody"


def test_an_unreadable_account_is_reported_only_to_callers_with_its_password(
    accounts: Accounts, incidents: SecurityEventAggregator
) -> None:
    accounts.add(OPERATOR, "ada@example.com", "owner", PASSWORD, REQUEST)
    name = "account:ada@example.com"
    later = enveloped(
        [KeyToggled(enabled=True, reason="")],
        subject=name,
        after_version=1,
        workspace="default",
        actor=OPERATOR.actor,
        request=REQUEST,
        new_id=lambda: "later",
    )
    accounts.ledger.append(name, later, 1)
    sign_in_ = sign_in_to(accounts, incidents)
    assert sign_in_("ada@example.com", "wrong password", REQUEST) is None
    with pytest.raises(UnreadableEventError):
        sign_in_("ada@example.com", PASSWORD, REQUEST)


@pytest.mark.parametrize("email", ["ada@example.com", "bob@example.com"])
def test_sign_in_attempts_are_limited_for_known_and_unknown_accounts_alike(
    client: FlaskClient, hasher: CountingHasher, email: str
) -> None:
    for _ in range(3):
        assert sign_in(client, email, "wrong password").status_code == 422
    for password in ("wrong password", PASSWORD):
        refused = sign_in(client, f" {email.upper()} ", password)
        assert refused.status_code == 429
        assert 500 < int(refused.headers["Retry-After"]) <= 600
        assert "form: Too many tries with a password. Wait 10 minutes, then try again." in refused.text
        assert f"email= {email.upper()} " in refused.text
    assert hasher.verified == 3
    assert who(client) == "nobody"
    assert sign_in(client, "carl@example.com").status_code == 422


def test_a_busy_hasher_asks_to_retry_and_does_not_count_as_an_attempt(
    client: FlaskClient,
    accounts: Accounts,
    incidents: SecurityEventAggregator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy(*_: Any) -> Any:
        raise HasherBusyError

    with monkeypatch.context() as patch:
        patch.setattr(Passwords, "_run", busy)
        for _ in range(20):
            answer = sign_in(client)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
            assert "form: Too many passwords are being checked right now. Wait a few seconds" in answer.text
    incidents.record_due()
    assert failures(accounts, "sign-in:ada@example.com") == []
    assert sign_in(client).status_code == 303


def test_each_session_has_its_own_limit_for_current_password_attempts(
    app: Flask, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(app, Access(lambda _: OPERATOR, accounts.principal_of, lambda *_: None))
    attach(app, Limits(None))
    counted = []

    def refuse(_: Accounts, *given: Any) -> None:
        counted.append(given[-1])
        raise OwnAccountError("refused")

    app.register_error_handler(OwnAccountError, lambda error: (str(error), 409))
    monkeypatch.setattr(Accounts, "change_password", refuse)
    form = {"current_password": "a guess", "password": "another password", "repeated": "another password"}
    for _ in range(2):
        with app.test_client() as client:
            sign_in(client)
            for _ in range(2):
                assert client.post("/account/password", data=form).status_code == 409
    first, again, second, _ = counted
    assert first == again != second
    assert first


def test_successful_sign_ins_are_limited_too(client: FlaskClient, accounts: Accounts) -> None:
    assert [sign_in(client).status_code for _ in range(17)] == [303] * 15 + [429] * 2
    assert accounts.ledger.version("sign-in:ada@example.com") == 15


def test_attempts_are_limited_per_network(client: FlaskClient) -> None:
    def answer(number: int, ip: str) -> int:
        form = {"email": f"nobody{number}@example.com", "password": "x"}
        return client.post("/sign-in", data=form, environ_base={"REMOTE_ADDR": ip}).status_code

    assert [answer(number, f"2001:db8::{number}") for number in range(16)] == [422] * 15 + [429]
    assert answer(99, "2001:db8:0:1::1") == 422
    assert answer(99, "192.0.2.1") == 422


@pytest.mark.parametrize(
    "spelling",
    [
        "198.51.100.7:{}",
        "[::ffff:198.51.100.7]:{}",
        "::FFFF:c633:6407",
        "[2001:db8::%{}]:443",
        "[2001:DB8::1]:{}",
    ],
)
def test_all_spellings_of_a_client_ip_share_one_limit_and_one_subject(
    client: FlaskClient, accounts: Accounts, incidents: SecurityEventAggregator, spelling: str
) -> None:
    def answer(number: int, ip: str) -> int:
        form = {"email": f"nobody{number}@example.com", "password": "x"}
        return client.post("/sign-in", data=form, environ_base={"REMOTE_ADDR": ip}).status_code

    answers = [answer(number, spelling.format(40_001 + number)) for number in range(16)]
    assert answers == [422] * 15 + [429]
    others = ("203.0.113.9:40001", "no address", "", "[2001:db8:0:1::1]:40001")
    assert [answer(number, other) for number, other in enumerate(others, 20)] == [422] * 4
    incidents.record_due()
    network = "198.51.100.7" if "2001" not in spelling else "2001:db8::/64"
    (event,) = accounts.ledger.history(f"address:{network}")
    assert event.request.ip == (
        "198.51.100.7" if "2001" not in spelling else canonical_ip(spelling.format(1))
    )
    assert event.actor.id == network


def test_signing_in_resets_the_accounts_failed_attempts(client: FlaskClient) -> None:
    for _ in range(7):  # what was wrong still counts for the address: 14 of 15
        assert sign_in(client, password="wrong password").status_code == 422
        assert sign_in(client, password="wrong password").status_code == 422
        assert sign_in(client).status_code == 303


def test_typed_emails_are_not_stored_and_every_redis_key_has_the_hash_tag(
    client: FlaskClient, store: Any, incidents: SecurityEventAggregator
) -> None:
    for _ in range(5):
        sign_in(client, "canary@typed.example", "wrong password")
    incidents.record_due()
    for key in store.scan_iter():
        assert key.startswith(b"{kl:0}:")
        kind = store.type(key)
        value = {b"hash": store.hgetall, b"stream": store.xrange, b"string": store.get}.get(kind, store.type)(
            key
        )
        assert b"canary" not in key + repr(value).encode()


def failures(accounts: Accounts, subject: str) -> list[int]:
    """The number of failed sign-ins that each event reports."""
    events = accounts.ledger.history(subject)
    return [event.data.attempts for event in events if isinstance(event.data, SignInFailed)]


def test_failures_are_recorded_once_a_minute_and_none_is_lost(
    client: FlaskClient, accounts: Accounts, incidents: SecurityEventAggregator, store: Any
) -> None:
    def a_minute_passes() -> None:
        store.delete(*store.scan_iter("{kl:0}:incidents:told:*"))

    for number in range(8):
        sign_in(client, "ada@example.com" if number % 2 else "bob@example.com", "wrong password")
        incidents.record_due()
    assert failures(accounts, "sign-in:ada@example.com") == [1]
    assert failures(accounts, "address:127.0.0.1") == [1]
    a_minute_passes()
    incidents.record_due()
    assert failures(accounts, "sign-in:ada@example.com") == [1, 3]
    assert failures(accounts, "address:127.0.0.1") == [1, 3]
    a_minute_passes()
    incidents.record_due()
    assert failures(accounts, "address:127.0.0.1") == [1, 3]
    (of_account, *_) = accounts.ledger.history("sign-in:ada@example.com")
    (of_address, *_) = accounts.ledger.history("address:127.0.0.1")
    for event in (of_account, of_address):
        assert (event.actor.kind, event.actor.id, event.actor.label) == (
            "anonymous",
            "127.0.0.1",
            "127.0.0.1",
        )
        assert event.workspace == "default"


def test_failures_are_recorded_again_after_a_crash_before_they_are_cleared(
    client: FlaskClient,
    accounts: Accounts,
    incidents: SecurityEventAggregator,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign_in(client, password="wrong password")
    monkeypatch.setattr(incidents, "_subtract", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        incidents.record_due()
    monkeypatch.undo()
    incidents = SecurityEventAggregator(store, Journal(accounts.ledger, accounts.new_id))
    incidents.record_due()
    assert failures(accounts, "sign-in:ada@example.com") == [1]
    store.delete(*store.scan_iter("{kl:0}:incidents:told:*"))
    incidents.record_due()
    assert failures(accounts, "sign-in:ada@example.com") == [1, 1]


def test_a_failure_that_arrives_during_recording_is_recorded_later(
    accounts: Accounts, incidents: SecurityEventAggregator, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.add(OPERATOR, "ada@example.com", "owner", PASSWORD, REQUEST)
    name = "account:ada@example.com"
    incidents.sign_in_failed(name, REQUEST)
    append = Ledger.append

    def append_while_another_comes(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        incidents.sign_in_failed(name, REQUEST)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", append_while_another_comes)
    incidents.record_due()
    monkeypatch.undo()
    store.delete(*store.scan_iter("{kl:0}:incidents:told:*"))
    incidents.record_due()
    assert failures(accounts, "sign-in:ada@example.com") == [1, 1]
    assert store.hgetall("{kl:0}:incidents:counts") == store.hgetall("{kl:0}:incidents:last") == {}


def test_signing_in_during_a_password_reset_gives_an_already_ended_session(
    accounts: Accounts, incidents: SecurityEventAggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.add(OPERATOR, "ada@example.com", "owner", PASSWORD, REQUEST)
    credential = Ledger.credential

    def changed_meanwhile(self: Ledger, subject: str) -> str | None:
        kept = credential(self, subject)
        accounts.reset_password(OPERATOR, "ada@example.com", "another password", REQUEST)
        return kept

    monkeypatch.setattr(Ledger, "credential", changed_meanwhile)
    account = sign_in_to(accounts, incidents)("ada@example.com", PASSWORD, REQUEST)
    assert account is not None
    assert accounts.principal_of(account.subject, account.version) is None


def test_denials_are_recorded_by_caller_and_scope_and_ignore_store_outages(store: Any) -> None:
    server = fakeredis.FakeServer()
    away = SecurityEventAggregator(fakeredis.FakeRedis(server=server), Journal(Ledger(store), lambda: "e1"))
    caller = Principal(kind="key", id="k1", label="ci", workspace="w", scopes=frozenset())
    server.connected = False
    away.access_denied(caller, "keyledger:admin", REQUEST)
    server.connected = True
    ids = map("e{}".format, count(1))
    incidents = SecurityEventAggregator(store, Journal(Ledger(store), lambda: next(ids)))
    for scope in ("keyledger:admin", "keyledger:keys.read", "keyledger:admin"):
        incidents.access_denied(caller, scope, REQUEST)
    incidents.record_due()
    events = Ledger(store).history("access:key:k1")
    assert sorted((event.data.scope, event.data.attempts) for event in events) == [
        ("keyledger:admin", 2),
        ("keyledger:keys.read", 1),
    ]
    assert {(event.workspace, event.actor) for event in events} == {("w", caller.actor)}


def test_the_aggregator_survives_store_errors_and_unreadable_counters(
    accounts: Accounts, incidents: SecurityEventAggregator, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.hset("{kl:0}:incidents:counts", "of a later version", 1)
    store.hset("{kl:0}:incidents:last", "of a later version", b"{}")
    incidents.sign_in_failed(None, REQUEST)
    append, failing = Ledger.append, [StoreAwayError("away"), VersionConflictError("s", 1, 2)]

    def fail_first(self: Ledger, *args: Any, **kwargs: Any) -> Any:
        store.delete(*store.scan_iter("{kl:0}:incidents:told:*"))
        if failing:
            raise failing.pop(0)
        return append(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, "append", fail_first)
    monkeypatch.setattr("services.accounts.security_events._LOOK_EVERY_S", 0.01)
    stop = Stop()
    thread = Thread(target=incidents.run, args=(stop,))
    thread.start()
    until(lambda: failures(accounts, "address:192.0.2.1") == [1])
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_sign_ins_stay_limited_while_the_store_is_out_of_memory(valkey_url: str) -> None:
    with connect(valkey_url) as full:
        attempts = LoginThrottle(full, parse("3/10 minutes"))
        full.config_set("maxmemory", 1)
        try:
            for _ in range(3):
                with attempts.sign_in("account:ada@example.com", "192.0.2.1"):
                    attempts.signed_in("account:ada@example.com", "192.0.2.1")
            with (
                pytest.raises(TooManyAttemptsError),
                attempts.sign_in("account:ada@example.com", "192.0.2.1"),
            ):
                pass
        finally:
            full.config_set("maxmemory", 0)


def test_an_email_that_looks_like_a_key_does_not_block_recording_other_failures(
    accounts: Accounts, incidents: SecurityEventAggregator, store: Any
) -> None:
    incidents.sign_in_failed(f"account:kl_{'aB3' * 16}aB@example.com", REQUEST)
    accounts.add(OPERATOR, "ada@example.com", "owner", PASSWORD, REQUEST)
    incidents.sign_in_failed("account:ada@example.com", REQUEST)
    incidents.record_due()
    assert failures(accounts, "sign-in:ada@example.com") == [1]
    assert store.hgetall("{kl:0}:incidents:counts") == {}
    assert not any(b"aB3aB3" in record.body for record in accounts.ledger.read(0, 10))


def test_failures_from_ips_beyond_the_first_100_share_one_event(
    accounts: Accounts, incidents: SecurityEventAggregator, store: Any
) -> None:
    for number in range(300):
        ip = f"198.51.{number // 250}.{number % 250}"
        incidents.sign_in_failed(None, Request(id="r1", ip=ip, user_agent=None))
    incidents.record_due()
    told = [decode(record) for record in accounts.ledger.read(0, 1_000)]
    assert len(told) == 101
    assert sum(event.data.attempts for event in told) == 300
    assert failures(accounts, "address:others") == [200]
    assert failures(accounts, "address:198.51.0.0") == [1]
    assert 0 < store.ttl("{kl:0}:incidents:addresses") <= 60
