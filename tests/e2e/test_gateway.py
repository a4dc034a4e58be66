"""Gateways set up by the recipes: which requests reach the service, and with which identity."""

import base64
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.gateways import (
    GATEWAYS,
    IDENTITY,
    Answer,
    EchoService,
    Gateway,
    Headers,
    ask,
    caddy_with_x_api_key,
    nginx,
    nginx_with_other_places,
    open_websocket,
    running,
)
from tests.e2e.refusals import REFUSED, refused_tokens
from tests.e2e.test_api import Caller, Json, create
from tests.support.processes import free_port, until
from tests.support.service import Service

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]


_FIRST, *_OTHERS = GATEWAYS
_OF_A_DRILL = [pytest.param(gateway, marks=pytest.mark.drill) for gateway in _OTHERS]


@pytest.fixture(scope="module", params=[_FIRST, *_OF_A_DRILL], ids=lambda gateway: gateway.__name__)
def gateway(request: pytest.FixtureRequest) -> Gateway:
    made: Gateway = request.param
    return made


@pytest.fixture(scope="module")
def upstream() -> Iterator[EchoService]:
    service = EchoService()
    yield service
    service.close()


@pytest.fixture(scope="module")
def door(
    gateway: Gateway, service: Service, upstream: EchoService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a gateway between clients and the service."""
    with running(gateway, tmp_path_factory.mktemp("gateway"), service.port, upstream.port) as port:
        yield port


@pytest.fixture(scope="module")
def admin(service: Service) -> Caller:
    return Caller(service, service.key("keyledger:admin"))


@pytest.fixture(scope="module")
def good(admin: Caller) -> Json:
    """A key with the required scope orders:read and one more."""
    return create(admin, name="Good", scopes=["orders:read", "orders:write"])


@pytest.fixture(scope="module")
def tokens(admin: Caller, good: Json) -> dict[str, str]:
    return refused_tokens(admin, good)


def bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")] if token else []


def told(service: EchoService) -> dict[str, list[str]]:
    """The identity and authorization headers of the service's last request, by normalized name.

    CGI and WSGI read all characters but letters and digits as the same.
    """
    found: dict[str, list[str]] = {}
    for name, value in service.seen[-1].headers:
        read = re.sub("[^A-Z0-9]", "_", name.upper())
        if "KEYLEDGER" in read or "AUTHORIZATION" in read:
            found.setdefault(read, []).append(value)
    return found


def identity(key: Json) -> dict[str, list[str]]:
    """The exact identity headers that the service must receive for a key."""
    return {
        "X_KEYLEDGER_KEY_ID": [key["id"]],
        "X_KEYLEDGER_WORKSPACE": ["test-gateway"],
        "X_KEYLEDGER_SCOPES": [" ".join(key["scopes"])],
    }


def test_the_service_receives_the_identity_but_never_the_key(
    door: int, upstream: EchoService, good: Json
) -> None:
    answer = ask(door, path="/orders/7?expand=lines", headers=bearer(good["api_key"]))
    assert answer.status == 200, answer.body
    assert upstream.seen[-1].path == "/orders/7?expand=lines"
    assert told(upstream) == identity(good)
    assert good["api_key"] not in str(upstream.seen[-1])


@pytest.mark.parametrize(("reason", "status"), REFUSED.items())
def test_an_invalid_key_is_refused(
    door: int, upstream: EchoService, tokens: dict[str, str], reason: str, status: int
) -> None:
    before = len(upstream.seen)
    answer = ask(door, headers=bearer(tokens[reason]))
    assert (answer.status, len(upstream.seen)) == (status, before), answer.body
    assert status == 403 or answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert not any("keyledger-" in name.lower() for name in answer.headers)


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"enabled": False}), ("DELETE", None)])
def test_a_disabled_or_revoked_key_is_refused_within_500_ms(
    door: int, upstream: EchoService, admin: Caller, method: str, body: Json | None
) -> None:
    key = create(admin, name=method, scopes=["orders:read"])
    headers = bearer(key["api_key"])
    assert ask(door, headers=headers).status == 200
    assert admin(method, f"/v1/keys/{key['id']}", json=body).ok
    acknowledged = time.monotonic()

    def is_refused() -> bool:
        sent = time.monotonic()
        status = ask(door, headers=headers).status
        assert status == 401 or (status == 200 and sent < acknowledged + 0.5)
        return status == 401

    until(is_refused)
    before = len(upstream.seen)
    assert [ask(door, headers=headers).status for _ in range(5)] == [401] * 5
    assert len(upstream.seen) == before


FORGERIES: list[Headers] = [
    [("X-Keyledger-Key-Id", "admin"), ("X-Keyledger-Workspace", "root"), ("X-Keyledger-Scopes", "all")],
    [("X-Keyledger-Key-Id", "admin"), ("X-Keyledger-Key-Id", "root")],
    [("x-keyledger-key-id", "admin"), ("X-KEYLEDGER-SCOPES", "all"), ("x-KeyLedger-wOrkspace", "root")],
    [("X_Keyledger_Key_Id", "admin"), ("x_keyledger_workspace", "root"), ("X-Keyledger_Scopes", "all")],
    [("X.Keyledger.Key.Id", "admin"), ("X+Keyledger+Workspace", "root"), ("X~Keyledger~Scopes", "all")],
    [("Connection", "close, X-Keyledger-Key-Id, X-Keyledger-Workspace, X-Keyledger-Scopes")],
    [("Connection", "keep-alive"), ("Connection", "x-keyledger-scopes"), ("X-Keyledger-Scopes", "all")],
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery[-1][0])
def test_forged_identity_headers_never_reach_the_service(
    door: int, upstream: EchoService, good: Json, tokens: dict[str, str], forgery: Headers
) -> None:
    key = bearer(good["api_key"])
    for headers in (forgery + key, key + forgery):
        assert ask(door, headers=headers).status == 200
        assert told(upstream) == identity(good)
    before = len(upstream.seen)
    for reason, status in REFUSED.items():
        assert ask(door, headers=forgery + bearer(tokens[reason])).status == status
    assert len(upstream.seen) == before


def test_a_second_key_in_a_request_does_not_change_the_identity(
    door: int, upstream: EchoService, good: Json, tokens: dict[str, str]
) -> None:
    keys = bearer(good["api_key"]) + bearer(tokens["scopeless"])
    for headers in (keys, keys[::-1]):
        before = len(upstream.seen)
        answer = ask(door, headers=headers)
        if answer.status == 200:
            assert told(upstream) == identity(good)
        else:
            assert (400 <= answer.status < 500, len(upstream.seen)) == (True, before)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_allowed_with_a_key_and_refused_without(
    door: int, upstream: EchoService, good: Json, method: str
) -> None:
    assert ask(door, method, "/orders", bearer(good["api_key"])).status == 200
    assert (upstream.seen[-1].method, upstream.seen[-1].path) == (method, "/orders")
    before = len(upstream.seen)
    assert ask(door, method, "/orders").status == 401
    assert len(upstream.seen) == before


def test_a_large_body_reaches_the_service_intact(door: int, upstream: EchoService, good: Json) -> None:
    body = secrets.token_bytes(20 * 2**20)
    assert ask(door, "POST", "/orders", bearer(good["api_key"]), body).status == 200
    assert upstream.seen[-1].length == len(body)


def test_requests_are_refused_while_the_store_is_stopped_and_work_again_after(
    door: int, service: Service, upstream: EchoService, good: Json, tokens: dict[str, str]
) -> None:
    store = service.pid("valkey-server")
    key = bearer(good["api_key"])
    assert ask(door, headers=key).status == 200
    os.kill(store, signal.SIGSTOP)
    try:
        until(lambda: ask(door, headers=key).status != 200, what="the first refusal")
        before = len(upstream.seen)
        sent = [*[key] * 5, *map(bearer, tokens.values())]
        with ThreadPoolExecutor(len(sent)) as clients:
            answers = list(clients.map(lambda headers: ask(door, headers=headers), sent))
        assert len(upstream.seen) == before
    finally:
        os.kill(store, signal.SIGCONT)
    assert [undecided(answer) for answer in answers[:5]] == [True] * 5
    assert {answer.status for answer in answers} <= {401, 503}
    until(lambda: ask(door, headers=key).status == 200, what="getting in again")
    assert told(upstream) == identity(good)
    assert ask(door, headers=bearer(tokens["revoked"])).status == 401


def undecided(answer: Answer) -> bool:
    return answer.status == 503 and int(answer.headers["Retry-After"]) > 0


@pytest.fixture
def asked(gateway: Gateway, upstream: EchoService, tmp_path: Path) -> Iterator[tuple[EchoService, int]]:
    """A fake Keyledger, and the port of a gateway that asks it."""
    keyledger = EchoService()
    keyledger.body = b""
    with running(gateway, tmp_path, keyledger.port, upstream.port) as port:
        keyledger.seen.clear()
        yield keyledger, port
    keyledger.close()


def test_a_websocket_opens_only_with_a_valid_key(
    asked: tuple[EchoService, int], upstream: EchoService
) -> None:
    keyledger, port = asked
    words = [b"one", b"two"]
    assert open_websocket(port, bearer("any"), words) == (101, words)
    for headers in (keyledger.seen[-1].headers, upstream.seen[-1].headers):
        named = {name.lower(): value for name, value in headers}
        assert ("upgrade" in named) == (headers is upstream.seen[-1].headers)
    assert "authorization" not in named
    before = len(upstream.seen)
    keyledger.status = 401
    assert open_websocket(port, bearer("any"))[0] == 401
    assert len(upstream.seen) == before


@pytest.fixture
def asked_elsewhere(upstream: EchoService, tmp_path: Path) -> Iterator[tuple[EchoService, int]]:
    """A fake Keyledger, and the port of an nginx that reads keys from other places."""
    keyledger = EchoService()
    keyledger.body = b""
    with running(nginx_with_other_places, tmp_path, keyledger.port, upstream.port) as port:
        keyledger.seen.clear()
        yield keyledger, port
    keyledger.close()


BASIC = base64.b64encode(b"kl_basic:").decode()


@pytest.mark.parametrize(
    ("path", "headers", "token", "reached"),
    [
        ("/a?b=1", [("Authorization", "Bearer kl_bearer"), ("X-API-Key", "kl_other")], "kl_bearer", "/a?b=1"),
        ("/a", [("X-API-Key", "kl_header")], "kl_header", "/a"),
        ("/a", [("Authorization", f"Basic {BASIC}")], "kl_basic", "/a"),
        ("/a?api_key=kl_query", [], "kl_query", "/a?"),
        ("/a?b=1&api_key=kl_query&c=%20", [], "kl_query", "/a?b=1&c=%20"),
        ("/a?api_key=kl_one&b=1&api_key=kl_two", [], "kl_one", "/a"),
        ("/a?my_api_key=kl_no", [], "", "/a?my_api_key=kl_no"),
        ("/a?api_key=kl_query", [("X-API-Key", "kl_header")], "kl_header", "/a?"),
    ],
)
def test_nginx_reads_keys_from_other_places_and_neither_forwards_nor_logs_them(
    asked_elsewhere: tuple[EchoService, int],
    upstream: EchoService,
    tmp_path: Path,
    path: str,
    headers: Headers,
    token: str,
    reached: str,
) -> None:
    keyledger, port = asked_elsewhere
    assert ask(port, path=path, headers=[*headers, ("Referer", f"http://x{path}")]).status == 200
    sent = [value for name, value in keyledger.seen[-1].headers if name == "Authorization"]
    assert sent == ([f"Bearer {token}"] if token else [])
    assert upstream.seen[-1].path == reached
    assert token == "" or token not in str(upstream.seen[-1])
    until(lambda: "/a" in (tmp_path / "orders.log").read_text(), what="the line of the request")
    for log in tmp_path.glob("*log*"):
        assert token == "" or token not in log.read_text(), log


def test_nginx_does_not_forward_upgrades_to_other_protocols(
    asked_elsewhere: tuple[EchoService, int], upstream: EchoService
) -> None:
    sent = [*bearer("any"), ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]
    assert ask(asked_elsewhere[1], headers=sent).status == 200
    assert "h2c" not in str(upstream.seen[-1].headers)


def test_nginx_logs_no_key_when_the_upstream_or_keyledger_fails(tmp_path: Path) -> None:
    keyledger = EchoService()
    keyledger.body = b""
    with running(nginx_with_other_places, tmp_path, keyledger.port, free_port()) as port:
        assert (
            ask(port, path="/a?api_key=kl_query", headers=[("Authorization", f"Basic {BASIC}")]).status == 502
        )
        keyledger.status = 500
        assert ask(port, path="/a?api_key=kl_query").status == 503
        until(lambda: (tmp_path / "orders.log").read_text().count("/a") == 2, what="both lines")
    keyledger.close()
    for log in tmp_path.glob("*log*"):
        assert "kl_" not in log.read_text(), log


def test_caddy_reads_a_key_from_x_api_key(upstream: EchoService, tmp_path: Path) -> None:
    keyledger = EchoService()
    keyledger.body = b""
    with running(caddy_with_x_api_key, tmp_path, keyledger.port, upstream.port) as port:
        for headers, token in (
            ([("X-API-Key", "kl_header")], "kl_header"),
            ([("X-API-Key", "kl_other"), *bearer("kl_bearer")], "kl_bearer"),
        ):
            assert ask(port, headers=headers).status == 200
            assert ("Authorization", f"Bearer {token}") in keyledger.seen[-1].headers
            assert "kl_" not in str(upstream.seen[-1])
        assert open_websocket(port, [("X-API-Key", "kl_header")], [b"one"]) == (101, [b"one"])
    keyledger.close()


def test_keyledger_receives_only_the_key_of_a_request(asked: tuple[EchoService, int]) -> None:
    keyledger, port = asked
    sent = [*bearer("any"), ("Cookie", "session=1")]
    assert ask(port, "POST", "/orders?card=2", sent, b"body").status == 200
    (seen,) = keyledger.seen
    for _ in range(10):
        assert ask(port, headers=bearer("any")).status == 200
    assert keyledger.connections <= 2
    assert (seen.path, seen.length) == ("/v1/forward-auth?scopes=orders:read", 0)
    assert ("Authorization", "Bearer any") in seen.headers
    assert "session=1" not in str(seen)


def test_only_a_200_from_keyledger_lets_a_request_through(
    gateway: Gateway, upstream: EchoService, asked: tuple[EchoService, int]
) -> None:
    keyledger, port = asked
    assert ask(port, headers=bearer("any")).status == 200
    before = len(upstream.seen)
    for keyledger.status in (301, 302, 304, 400, 404, 418, 429, 500, 502, 503):
        answer = ask(port, "POST", "/", bearer("any"), b"body")
        assert answer.status >= 300
        assert gateway is not nginx or undecided(answer)
    assert len(upstream.seen) == before


def test_forged_identities_are_dropped_when_keyledger_returns_none(
    upstream: EchoService, asked: tuple[EchoService, int]
) -> None:
    """For example, for a key without scopes, or if something other than Keyledger answers."""
    keyledger, port = asked
    for keyledger.headers in ({}, dict.fromkeys(IDENTITY, "")):
        for forgery in FORGERIES:
            assert ask(port, headers=forgery + bearer("any")).status == 200
            read = {value for values in told(upstream).values() for value in values}
            assert not read & {"admin", "root", "all"}


@pytest.mark.parametrize("status", [401, 403])
def test_keyledgers_status_and_challenge_reach_the_client(
    upstream: EchoService, asked: tuple[EchoService, int], status: int
) -> None:
    keyledger, port = asked
    keyledger.status, keyledger.headers = status, {"WWW-Authenticate": 'Bearer error="a"'}
    before = len(upstream.seen)
    answer = ask(port, headers=bearer("any"))
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (status, 'Bearer error="a"')
    assert len(upstream.seen) == before


def test_requests_are_refused_while_keyledger_is_unreachable(
    gateway: Gateway, upstream: EchoService, tmp_path: Path
) -> None:
    with running(gateway, tmp_path, free_port(), upstream.port) as port:
        before = len(upstream.seen)
        answer = ask(port, headers=bearer("any"))
        assert answer.status >= 500
        assert gateway is not nginx or undecided(answer)
        assert len(upstream.seen) == before
