"""A web process that is told to end: what it began it finishes, and nobody is cut off."""

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

from tests.real import children, free_port, until
from tests.services.slow_application import PART, PARTS

NOT_GIVEN_UP_S = 90  # it ended by itself
CLIENTS = 64  # twice as many as the workers answer at once
_ROOT = Path(__file__).parents[2]
_LISTEN = "0A"  # as /proc/net/tcp has it
_SERVE = "from services.runtime.server import serve_application as serve; serve({!r}, '127.0.0.1', {})"
# No verdict depends on the machine's speed: nothing is given up in the time that a test may take.
_UNHURRIED = (
    "from shared.web.server import draining; draining._LONGEST_S = 100.0; "
    "from services.runtime import server; server._STOP_S = 110; "
)
# For clients that send when this process comes to it, on a machine that is busy with others.
_PATIENTLY = "draining._QUIET_S = 2.0; "
# As a container has it, and every user but root.
_PLAIN = ["setpriv", "--bounding-set", "-all"] if os.geteuid() == 0 else []
_REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nsent"


class Server:
    """A web process of its own."""

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
        """Lets the workers do nothing."""
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
        """Whether there are two, both with SIGTERM in a mask of theirs, by its name in /proc."""
        told = [Path(f"/proc/{worker}/status").read_text() for worker in children(self._process.pid)]
        masks = [int(re.findall(rf"(?m)^{mask}:\s*(\w+)", status)[0], 16) for status in told]
        return len(masks) == 2 and all(found & 1 << signal.SIGTERM - 1 for found in masks)

    def end(self) -> float:
        """Ends it, and gives the seconds that it took."""
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
    """A web process with an application that is slow, and what it does before that."""
    port = free_port()
    serve = _UNHURRIED + before + _SERVE.format("tests.services.slow_application:create", port)
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
    """Asks on one connection for as long as the server keeps it."""
    with connected(port) as connection:
        kept = True
        while kept:
            connection.request("POST", "/", b"sent")
            answer = connection.getresponse()
            kept = answer.getheader("Connection") != "close"
            outcomes.append("answered" if answer.read() == b"sent" else "cut off")


def connect_until_refused(server: Server, outcomes: list[str]) -> None:
    """Asks each time on a connection of its own."""
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


def test_who_had_connected_is_answered(patient_server: Server, peers: ExitStack) -> None:
    connections = [peers.enter_context(patient_server.connection()) for _ in range(CLIENTS)]
    with ThreadPoolExecutor(1) as ender:
        took = ender.submit(patient_server.end)
        until(lambda: not patient_server.listeners(), what="a closed port")
        for peer in connections:
            peer.sendall(_REQUEST)
        assert all(map(answered, connections))
        assert took.result() < NOT_GIVEN_UP_S


def test_who_waits_to_be_accepted_is_answered(server: Server, peers: ExitStack) -> None:
    with ThreadPoolExecutor(1) as ender:
        with server.stopped():
            connections = [peers.enter_context(server.connection()) for _ in range(CLIENTS)]
            for peer in connections:
                peer.sendall(_REQUEST)
            took = ender.submit(server.end)
            until(lambda: server.workers("ShdPnd"), what="the signal to the workers")
        assert all(map(answered, connections))
        assert took.result() < NOT_GIVEN_UP_S


def test_connections_that_are_kept_end_with_an_answer_that_says_so(patient_server: Server) -> None:
    outcomes: list[str] = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(ask_until_told, patient_server.port, outcomes) for _ in range(CLIENTS)]
        until(lambda: len(outcomes) > 5 * CLIENTS, what="so many answers")
        assert patient_server.end() < NOT_GIVEN_UP_S
        assert [each.result() for each in asking] == [None] * CLIENTS
    assert set(outcomes) == {"answered"}


def test_whoever_connects_at_that_moment_is_refused_or_answered(patient_server: Server) -> None:
    outcomes: list[str] = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(connect_until_refused, patient_server, outcomes) for _ in range(CLIENTS)]
        until(lambda: len(outcomes) > 5 * CLIENTS, what="so many answers")
        assert patient_server.end() < NOT_GIVEN_UP_S  # no new client puts the end off
        assert [each.result() for each in asking] == [None] * CLIENTS
    assert set(outcomes) == {"answered"}


def test_what_was_begun_is_finished_while_others_are_refused_at_once(server: Server) -> None:
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


def test_a_connection_that_nobody_uses_holds_nothing_up(server: Server) -> None:
    with connected(server.port) as idle:
        idle.request("POST", "/", b"sent")
        idle.getresponse().read()
        assert server.end() < NOT_GIVEN_UP_S
