"""The deployment's gateway with web processes that hang up: which requests are retried."""

import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
import requests

from shared.web.server.context import security_headers
from tests.support.deployment import Deployment
from tests.support.processes import until

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
ONCE = {"Idempotency-Key": "one"}


class Upstream:
    """Records the requests it receives, and answers each or hangs up on it."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.hang_ups = 0  # on how many more
        self.port = 0  # at first any that is free
        self.open()

    def open(self) -> None:
        """Accepts connections."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._thread = Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Refuses connections from now on."""
        with suppress(OSError):  # it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                with peer:
                    self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        request = peer.recv(65_536)
        if not request:
            return
        self.seen.append(request)
        self.hang_ups -= 1
        if self.hang_ups < 0:
            peer.sendall(_ANSWER)


@pytest.fixture
def webs() -> Iterator[dict[str, Upstream]]:
    made = {name: Upstream() for name in ("web-1", "web-2", "audit-web")}
    yield made
    for upstream in made.values():
        upstream.close()


@pytest.fixture
def gateway(webs: dict[str, Upstream]) -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="kl-") as directory:
        deployment = Deployment(Path(directory), database="none")
        deployment.ports |= {name: upstream.port for name, upstream in webs.items()}
        deployment.start("gateway")
        until(lambda: deployment.is_healthy("gateway"), what="the gateway")
        for upstream in webs.values():
            upstream.seen.clear()
        yield deployment
        deployment.down()


def ask(
    gateway: Deployment, method: str, path: str, headers: Mapping[str, str] | None = None
) -> requests.Response:
    with requests.Session() as client:
        gateway.trust(client)
        body = None if method in {"GET", "DELETE"} else "{}"
        return client.request(method, f"{gateway.url}{path}", headers=headers, data=body, timeout=60)


@pytest.mark.parametrize(
    ("method", "path", "headers", "again"),
    [
        ("GET", "/keys", {}, True),
        ("GET", "/v1/keys?limit=2", {}, True),
        ("DELETE", "/v1/keys/1", {}, True),
        ("POST", "/v1/keys/verify", {}, True),
        ("POST", "/v1/keys?a=%2F", ONCE, True),
        ("POST", "/v1/keys/1/rotate", ONCE, True),
        ("PATCH", "/v1/keys/1", ONCE, False),
        ("POST", "/v1/keys", {}, False),
        ("POST", "/v1/keys/1/rotate", {}, False),
        ("PATCH", "/v1/keys/1", {}, False),
        ("POST", "/keys/new", {}, False),
        ("POST", "/sign-in", ONCE, False),
        ("GET", "/audit", {}, True),
        ("POST", "/audit/lookup", {}, False),
    ],
)
def test_requests_are_retried_only_if_repeating_them_is_safe(
    gateway: Deployment,
    webs: dict[str, Upstream],
    method: str,
    path: str,
    headers: dict[str, str],
    again: bool,
) -> None:
    webs["audit-web" if path.startswith("/audit") else "web-1"].hang_ups = 1
    for _ in range(4):  # nginx asks them in turns
        answer = ask(gateway, method, path, headers)
        seen = [line.split(b"\r\n")[0].decode() for upstream in webs.values() for line in upstream.seen]
        assert {*seen} == {f"{method} {path} HTTP/1.1"}
        for upstream in webs.values():
            upstream.seen.clear()
        if len(seen) == 2 or answer.status_code != 200:
            break
    assert (answer.status_code, len(seen)) == ((200, 2) if again else (502, 1))
    assert again or answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/keys"), ("PATCH", "/v1/keys/1"), ("POST", "/sign-in")]
)
def test_refused_connections_are_retried_on_the_other_process(
    gateway: Deployment, webs: dict[str, Upstream], method: str, path: str
) -> None:
    webs["web-1"].close()
    assert [ask(gateway, method, path).status_code for _ in range(10)] == [200] * 10
    assert len(webs["web-2"].seen) == 10


def test_audit_pages_fall_back_to_the_web_processes(gateway: Deployment, webs: dict[str, Upstream]) -> None:
    assert ask(gateway, "POST", "/audit/lookup").status_code == 200
    assert [len(upstream.seen) for upstream in webs.values()] == [0, 0, 1]
    webs["audit-web"].close()
    for path in ("/audit", "/audit/lookup", "/v1/audit/entries"):
        assert ask(gateway, "POST", path).status_code == 200
    assert len(webs["web-1"].seen) + len(webs["web-2"].seen) == 3


def test_without_any_process_the_gateway_answers_502_with_retry_after(
    gateway: Deployment, webs: dict[str, Upstream]
) -> None:
    for upstream in webs.values():
        upstream.close()
    for headers in ({}, ONCE):
        answer = ask(gateway, "POST", "/v1/keys", headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (502, "1")
        over_tls = dict(security_headers({"wsgi.url_scheme": "https"}))
        assert {name: answer.headers.get(name) for name in over_tls} == over_tls
        assert answer.json()["detail"] == "Keyledger does not answer. Try again in a second."


def test_a_returning_process_is_used_immediately_after_an_outage_of_all(
    gateway: Deployment, webs: dict[str, Upstream]
) -> None:
    for upstream in webs.values():
        upstream.close()
    assert {ask(gateway, "POST", "/v1/keys").status_code for _ in range(8)} == {502}
    webs["web-2"].open()
    assert ask(gateway, "POST", "/v1/keys").status_code == 200
    assert ask(gateway, "POST", "/audit/lookup").status_code == 200


def test_a_gateway_reload_drops_no_requests(gateway: Deployment, webs: dict[str, Upstream]) -> None:
    with requests.Session() as client:
        gateway.trust(client)
        client.headers["Connection"] = "close"
        for number in range(60):
            if number % 20 == 10:
                gateway.reload_gateway()
            assert client.get(f"{gateway.url}/keys", timeout=60).status_code == 200
    assert len(webs["web-1"].seen) + len(webs["web-2"].seen) == 60
