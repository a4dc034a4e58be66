"""Graceful shutdown: a web process completes running requests and cuts nobody off."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.processes import children, free_port, until
from tests.support.slow_application import PART, PARTS

NOT_GIVEN_UP_S = 90  # it ended by itself
CLIENTS = 64  # twice as many as the workers answer at once
_ROOT = Path(__file__).parents[3]
_LISTEN = "0A"  # as /proc/net/tcp has it
_SERVE = "from services.runtime.server import serve_application as serve; serve({!r}, '127.0.0.1', {})"
# Timeouts longer than a test may take, so that results don't depend on the machine's speed.
_UNHURRIED = (
    "from shared.web.server import draining; draining._LONGEST_S = 100.0; "
    "from services.runtime import server; server._STOP_S = 110; "
)
# For clients in this process that may send late on a busy machine.
_PATIENTLY = "draining._QUIET_S = 2.0; "
# Without capabilities, as in a container or for any user except root.
_PLAIN = ["setpriv", "--bounding-set", "-all"] if os.geteuid() == 0 else []
_REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nsent"


class Server:
    """A running web process."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.port = port
        self._process = process

    def listeners(self) -> int:
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()]
        return sum(row[1] == f"0100007F:{self.port:04X}" and row[3] == _LISTEN for row in rows)

    def connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 100)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Suspends the workers."""
        workers = children(self._process.pid)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        until(lambda: all(map(is_stopped, workers)), what="the stop of all their threads")
        try:
            yield
        finally:
            for worker in workers:
                os.kill(worker, signal.SIGCONT)

    def workers(self, mask: str) -> bool:
        """Returns whether there are two workers with SIGTERM in the signal mask of this name in /proc."""
        told = [Path(f"/proc/{worker}/status").read_text() for worker in children(self._process.pid)]
        masks = [int(re.findall(rf"(?m)^{mask}:\s*(\w+)", status)[0], 16) for status in told]
        return len(masks) == 2 and all(found & 1 << signal.SIGTERM - 1 for found in masks)

    def end(self) -> float:
        """Shuts it down gracefully, and returns the duration in seconds."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(115) == 0
        return time.monotonic() - began


def is_stopped(pid: int) -> bool:
    states = [
        (thread / "stat").read_text().rpartition(") ")[2][0] for thread in Path(f"/proc/{pid}/task").iterdir()
    ]
    return set(states) == {"T"}


@contextmanager
def serving(before: str = "") -> Iterator[Server]:
    """Runs a web process with a slow application, after some setup code."""
    port = free_port()
    serve = _UNHURRIED + before + _SERVE.format("tests.support.slow_application:create", port)
    with subprocess.Popen([*_PLAIN, sys.executable, "-c", serve], cwd=_ROOT) as process:
        made = Server(port, process)
        until(
            lambda: made.listeners() == 2 and made.workers("SigBlk"),
            what="two workers that wait for a signal",
        )
        yield made
        process.kill()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def patient_server() -> Iterator[Server]:
    with serving(_PATIENTLY) as made:
        yield made


def ask_until_told(port: int, outcomes: list[str]) -> None:
    """Sends requests on one connection until the server closes it."""
    with connected(port) as connection:
        kept = True
        while kept:
            connection.request("POST", "/", b"sent")
            answer = connection.getresponse()
            kept = answer.getheader("Connection") != "close"
            outcomes.append("answered" if answer.read() == b"sent" else "cut off")


def connect_until_refused(server: Server, outcomes: list[str]) -> None:
    """Sends each request on a new connection until one is refused."""
    while True:
        try:
            peer = server.connection()
        except ConnectionRefusedError:
            return
        with peer:
            peer.sendall(_REQUEST)
            outcomes.append("answered" if answered(peer) else "cut off")


def connected(port: int) -> "closing[HTTPConnection]":
    return closing(HTTPConnection("127.0.0.1", port, timeout=100))


@pytest.fixture
def peers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def answered(peer: socket.socket) -> bool:
    return b"".join(iter(lambda: peer.recv(4096), b"")).endswith(b"\r\n\r\nsent")


def test_clients_connected_before_shutdown_get_a_response(patient_server: Server, peers: ExitStack) -> None:
    connections = [peers.enter_context(patient_server.connection()) for _ in range(CLIENTS)]
    with ThreadPoolExecutor(1) as ender:
        took = ender.submit(patient_server.end)
        until(lambda: not patient_server.listeners(), what="a closed port")
        for peer in connections:
            peer.sendall(_REQUEST)
        assert all(map(answered, connections))
        assert took.result() < NOT_GIVEN_UP_S


def test_connections_waiting_to_be_accepted_get_a_response(server: Server, peers: ExitStack) -> None:
    with ThreadPoolExecutor(1) as ender:
        with server.stopped():
            connections = [peers.enter_context(server.connection()) for _ in range(CLIENTS)]
            for peer in connections:
                peer.sendall(_REQUEST)
            took = ender.submit(server.end)
            until(lambda: server.workers("ShdPnd"), what="the signal to the workers")
        assert all(map(answered, connections))
        assert took.result() < NOT_GIVEN_UP_S


def test_keep_alive_connections_end_with_a_connection_close_response(patient_server: Server) -> None:
    outcomes: list[str] = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(ask_until_told, patient_server.port, outcomes) for _ in range(CLIENTS)]
        until(lambda: len(outcomes) > 5 * CLIENTS, what="so many answers")
        assert patient_server.end() < NOT_GIVEN_UP_S
        assert [each.result() for each in asking] == [None] * CLIENTS
    assert set(outcomes) == {"answered"}


def test_clients_that_connect_during_shutdown_are_answered_or_refused(patient_server: Server) -> None:
    outcomes: list[str] = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(connect_until_refused, patient_server, outcomes) for _ in range(CLIENTS)]
        until(lambda: len(outcomes) > 5 * CLIENTS, what="so many answers")
        assert patient_server.end() < NOT_GIVEN_UP_S  # no new client puts the end off
        assert [each.result() for each in asking] == [None] * CLIENTS
    assert set(outcomes) == {"answered"}


def test_a_running_response_completes_while_new_connections_are_refused(server: Server) -> None:
    with connected(server.port) as connection, ThreadPoolExecutor(2) as both:
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        assert answer.read(len(PART)) == PART
        rest, took = both.submit(answer.read), both.submit(server.end)
        until(lambda: not server.listeners(), what="a closed port")
        with pytest.raises(ConnectionRefusedError):
            server.connection()
        assert not rest.done()
        assert took.result() > 1
        assert rest.result() == PART * (PARTS - 1)


def test_an_idle_connection_does_not_delay_shutdown(server: Server) -> None:
    with connected(server.port) as idle:
        idle.request("POST", "/", b"sent")
        idle.getresponse().read()
        assert server.end() < NOT_GIVEN_UP_S
