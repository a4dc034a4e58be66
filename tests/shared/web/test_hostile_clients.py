"""Clients that hold connections open can't block others."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from shared.identity import UnauthenticatedError
from shared.web.server import bodies, slots
from shared.web.server.bodies import Bodies
from shared.web.server.connections import ConnectionGuard
from shared.web.server.context import BODY, CALLER, FAILURE, MAX_BODY_BYTES
from shared.web.server.slots import BusyError, Slots
from tests.support.guarded_application import CROWDED, PER_PEER
from tests.support.processes import free_port, until

_ROOT = Path(__file__).parents[3]
_SERVE = (
    "from services.runtime.server import serve_application as serve; serve({!r}, '127.0.0.1', {}, workers=1)"
)
_HALF = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
_GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def serving(factory: str) -> Iterator[int]:
    """Runs a web process with one worker and yields its port."""
    port = free_port()
    serve = _SERVE.format(f"tests.support.guarded_application:{factory}", port)
    with subprocess.Popen([sys.executable, "-c", serve], cwd=_ROOT) as process:
        try:
            until(lambda: answers(port), what="the first answer")
            yield port
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving("create") as port:
        yield port


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def answers(port: int) -> bool:
    try:
        return asked(port, "/") == b"nothing"
    except OSError:
        return False


def asked(port: int, path: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Connection": "close"})
    return connection.getresponse().read()


def sent(port: int, request: bytes) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port), 30)
    peer.sendall(request)
    return peer


def rest(peer: socket.socket) -> bytes:
    """Reads until the server closes the connection."""
    return b"".join(iter(lambda: peer.recv(4096), b""))


def test_incomplete_bodies_time_out_without_blocking_other_clients(port: int, peers: ExitStack) -> None:
    halves = [peers.enter_context(sent(port, _HALF)) for _ in range(200)]
    assert asked(port, "/") == b"nothing"
    for half in halves:
        answer = rest(half).lower()
        assert answer.endswith(b"requesttimeout")
        assert b"connection: close" in answer


def test_a_slowly_sent_body_times_out(port: int, peers: ExitStack) -> None:
    peer = peers.enter_context(sent(port, _HALF.replace(b"10", b"60000")))
    stop = Event()

    def trickle() -> None:
        while not stop.wait(0.05):
            try:
                peer.sendall(b"x")
            except OSError:
                return

    trickling = Thread(target=trickle)
    trickling.start()
    try:
        assert b"RequestTimeout" in peer.recv(4096)
    finally:
        stop.set()
        trickling.join()


def test_a_chunked_body_without_a_final_chunk_times_out(port: int, peers: ExitStack) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    peer = peers.enter_context(sent(port, head + b"4\r\nhalf\r\n"))
    assert rest(peer).endswith(b"RequestTimeout")


def test_an_incomplete_body_pipelined_after_another_request_times_out(port: int, peers: ExitStack) -> None:
    peer = peers.enter_context(sent(port, _GET + _HALF))
    assert rest(peer).endswith(b"RequestTimeout")


def test_connections_per_peer_are_limited_without_closing_existing_ones(peers: ExitStack) -> None:
    with serving("create_capped") as port:
        kept = [peers.enter_context(sent(port, _GET)) for _ in range(PER_PEER)]
        assert all(peer.recv(4096) for peer in kept)
        excess = [peers.enter_context(sent(port, b"")) for _ in range(10)]
        assert [rest(peer) for peer in excess] == [b""] * 10
        for peer in kept:
            peer.sendall(_GET)
            assert peer.recv(4096).endswith(b"nothing")
        with socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.2", 0)) as another:
            another.sendall(_GET)
            assert another.recv(4096).endswith(b"nothing")


def test_idle_connections_are_closed_to_make_room_for_other_clients(peers: ExitStack) -> None:
    with serving("create_capped") as port:
        for last in range(2, 6):
            for _ in range(15):
                peers.enter_context(socket.create_connection(("127.0.0.1", port), 30, (f"127.0.0.{last}", 0)))
        until(lambda: open_at(port) <= CROWDED + 1, what="the end of those that are too many")
        assert asked(port, "/") == b"nothing"


def open_at(port: int) -> int:
    """Returns the number of open connections of a server."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_a_response_that_the_client_does_not_read_is_aborted(port: int, peers: ExitStack) -> None:
    peers.enter_context(sent(port, b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"))
    until(lambda: asked(port, "/streaming") == b"1", what="the stream")
    until(lambda: asked(port, "/streaming") == b"0", 30, what="the end of the stream")


def test_http_2_is_not_supported(port: int, peers: ExitStack) -> None:
    settings = b"\0\0\0\4\0\0\0\0\0"
    peer = peers.enter_context(sent(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings))
    assert not rest(peer).startswith(settings[:4])
    assert asked(port, "/") == b"nothing"


class Application:
    """The wrapped application. Keeps the WSGI environment of the last request."""

    def __init__(self) -> None:
        self.environ: dict[str, Any] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.environ = environ
        start_response("200 OK", [])
        return []


class Unread(BytesIO):
    """A body that fails the test if it is read."""

    def read(self, size: int | None = -1) -> bytes:
        raise AssertionError(size)


def posted(behind: Application, body: BytesIO, **environ: str) -> list[tuple[str, str]]:
    """Sends a request to an app that rejects every caller, and returns the response headers."""
    headers: list[tuple[str, str]] = []

    def admit(_: object) -> None:
        raise UnauthenticatedError

    application: Any = Bodies(behind, ConnectionGuard(), admit, unread={"/v1/forward-auth"})
    request = {"REQUEST_METHOD": "POST", "REMOTE_ADDR": "127.0.0.1", "wsgi.input": body} | environ
    application(request, lambda _, given: headers.extend(given))
    return headers


@pytest.mark.parametrize(
    ("request_", "failure"),
    [
        ({"PATH_INFO": "/v1/keys", "CONTENT_LENGTH": "10"}, UnauthenticatedError),
        ({"PATH_INFO": "/v1/keys/verify", "HTTP_TRANSFER_ENCODING": "chunked"}, UnauthenticatedError),
        ({"PATH_INFO": "/v1/nosuch", "CONTENT_LENGTH": "10"}, UnauthenticatedError),
        ({"PATH_INFO": "/sign-in", "CONTENT_LENGTH": str(MAX_BODY_BYTES + 1)}, RequestEntityTooLarge),
        ({"PATH_INFO": "/v1/keys", "CONTENT_LENGTH": str(MAX_BODY_BYTES + 1)}, RequestEntityTooLarge),
        ({"PATH_INFO": "/v1/forward-auth", "CONTENT_LENGTH": "10"}, type(None)),
        ({"PATH_INFO": "/sign-in", "CONTENT_LENGTH": "10", "REQUEST_METHOD": "GET"}, type(None)),
    ],
)
def test_rejected_and_ignored_bodies_are_not_read(request_: dict[str, str], failure: type[object]) -> None:
    behind = Application()
    assert ("Connection", "close") in posted(behind, Unread(b"x" * 10), **request_)
    assert isinstance(behind.environ.get(FAILURE), failure)
    assert behind.environ[BODY] == b""


def test_the_body_of_a_request_with_a_lower_case_method_is_read() -> None:
    behind = Application()
    posted(behind, BytesIO(b"body"), PATH_INFO="/sign-in", CONTENT_LENGTH="4", REQUEST_METHOD="post")
    assert behind.environ[BODY] == b"body"


def test_a_truncated_body_is_rejected() -> None:
    behind = Application()
    posted(behind, BytesIO(b"half"), PATH_INFO="/sign-in", CONTENT_LENGTH="10")
    assert isinstance(behind.environ[FAILURE], BadRequest)


def test_the_size_limit_also_applies_to_chunked_bodies() -> None:
    behind = Application()
    body = BytesIO(b"x" * (MAX_BODY_BYTES + 1))
    posted(behind, body, PATH_INFO="/sign-in", HTTP_TRANSFER_ENCODING="chunked")
    assert isinstance(behind.environ[FAILURE], RequestEntityTooLarge)


def test_the_sender_of_a_slow_body_is_reauthenticated(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = Application()
    application: Any = Bodies(
        behind, ConnectionGuard(), lambda context: context.environ.update({CALLER: "a caller"})
    )
    request = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/keys",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": "4",
    }
    application(request | {"wsgi.input": BytesIO(b"body")}, lambda *_: None)
    assert behind.environ[CALLER] == "a caller"
    monkeypatch.setattr(bodies, "_REAUTHENTICATE_S", -1)
    application(request | {"wsgi.input": BytesIO(b"body")}, lambda *_: None)
    assert CALLER not in behind.environ


def test_requests_wait_for_a_slot_but_health_probes_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_MAX_WAIT_S", 0.05)
    began, go_on = Event(), Event()
    refused: dict[str, Any] = {"PATH_INFO": "/v1/keys", FAILURE: UnauthenticatedError()}

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            began.set()
            assert go_on.wait(30)
        start_response("200 OK", [])
        return []

    application: Any = Slots(slow, 1, {"/healthz"})
    holder = Thread(target=application, args=({"PATH_INFO": "/slow"}, lambda *_: None))
    holder.start()
    assert began.wait(10)
    probe, page = {"PATH_INFO": "/healthz"}, {"PATH_INFO": "/keys"}
    application(probe, lambda *_: None)
    assert FAILURE not in probe
    application(refused, lambda *_: None)
    assert isinstance(refused[FAILURE], UnauthenticatedError)
    application(page, lambda *_: None)
    assert isinstance(page[FAILURE], BusyError)
    go_on.set()
    holder.join()
    again = {"PATH_INFO": "/keys"}
    application(again, lambda *_: None)
    assert FAILURE not in again
