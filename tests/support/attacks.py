"""Hostile clients, a limited number of each kind, and a caller that measures verification in parallel.

They run in separate processes, so that neither waits for the other's interpreter.
"""

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from itertools import repeat
from typing import Any
from urllib.parse import urlencode

ABORTS = 200
HALF_BODIES = 200
PASSWORD_CHANGES = 60
PAGES = 10_000
EXPORTS = 1_000
_HELD_S = 7.0  # longer than the deadline for a body
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PACE_S = 0.005

Target = dict[str, Any]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Returns an HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Returns a header field that is not indexed (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def h2_aborts(target: Target) -> Counter[str]:
    """Sends HTTP/2 uploads that end after the first byte of their body."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/v1/keys/verify",
        b":authority": b"x",
        b"content-length": b"100",
    }
    head = b"".join(_literal(name, value) for name, value in fields.items())
    frames = [_frame(4, 0, 0, b""), _frame(1, 4, 1, head), _frame(0, 0, 1, b"{")]
    for _ in range(ABORTS):
        with socket.create_connection(("127.0.0.1", target["port"]), 10) as peer, suppress(OSError):
            peer.sendall(_PREFACE + b"".join(frames))
    return Counter(sent=ABORTS)


def half_bodies(target: Target) -> Counter[str]:
    """Sends requests whose body stops halfway: anonymous, from a form, and from a caller with a key."""
    heads = (
        "POST /v1/keys/verify HTTP/1.1\r\nHost: x\r\n",
        "POST /sign-in HTTP/1.1\r\nHost: x\r\n",
        f"POST /v1/keys/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target['reader']}\r\n",
    )
    answers: Counter[str] = Counter()
    with ExitStack() as stack:
        peers = []
        for number in range(HALF_BODIES):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", target["port"]), 30))
            peer.sendall(f"{heads[number % len(heads)]}Content-Length: 100\r\n\r\n{{".encode())
            peers.append(peer)
        time.sleep(_HELD_S)
        for peer in peers:
            answers[peer.recv(12)[9:].decode() or "closed"] += 1
    return answers


def password_changes(target: Target) -> Counter[str]:
    """Sends concurrent password changes from a signed-in person, all with a wrong current password."""
    another = "another long password"
    body = urlencode(
        {
            "csrf_token": target["csrf_token"],
            "current_password": "wrong",
            "password": another,
            "repeated": another,
        }
    )
    headers = {"Cookie": target["cookie"], "Content-Type": "application/x-www-form-urlencoded"}
    return _each(
        target["port"], PASSWORD_CHANGES, PASSWORD_CHANGES, "POST", "/account/password", body, headers
    )


def anonymous_pages(target: Target) -> Counter[str]:
    """Requests pages anonymously."""
    return _each(target["port"], PAGES, 8, "GET", "/sign-in", "", {})


def exports(target: Target) -> Counter[str]:
    """Requests the audit log repeatedly as a read-only caller."""
    headers = {"Authorization": f"Bearer {target['reader']}"}
    path = "/v1/audit/entries.csv?q=" + "word%20" * 60
    return _each(target["port"], EXPORTS, 8, "GET", path, "", headers)


ATTACKS: dict[str, Callable[[Target], Counter[str]]] = {
    "h2 aborts": h2_aborts,
    "half-sent bodies": half_bodies,
    "password changes": password_changes,
    "anonymous pages": anonymous_pages,
    "exports": exports,
}


def _each(
    port: int, count: int, at_once: int, method: str, path: str, body: str, headers: dict[str, str]
) -> Counter[str]:
    def ask(times: int) -> Counter[str]:
        answers: Counter[str] = Counter()
        with _connected(port) as connection:
            for _ in range(times):
                try:
                    connection.request(method, path, body or None, headers)
                    answer = connection.getresponse()
                    answer.read()
                    answers[str(answer.status)] += 1
                except (HTTPException, OSError):
                    connection.close()
                    answers["closed"] += 1
        return answers

    with ThreadPoolExecutor(at_once) as clients:
        return sum(clients.map(ask, repeat(count // at_once, at_once)), Counter[str]())


@contextmanager
def _connected(port: int) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def verify_until_stopped(target: Target) -> None:
    """Verifies a key every few milliseconds, and requests `/healthz` on a new connection each time.

    Prints what each took in ms and every answer that was another than it must be, when its input ends.
    """
    body = json.dumps({"api_key": target["key"]})
    headers = {"Authorization": f"Bearer {target['verifier']}", "Content-Type": "application/json"}
    took: list[float] = []
    wrong: list[str] = []
    with _connected(target["port"]) as connection, ThreadPoolExecutor(1) as waiting:
        ended = waiting.submit(sys.stdin.read)
        while not ended.done():
            began = time.perf_counter()
            connection.request("POST", "/v1/keys/verify", body, headers)
            answer = connection.getresponse().read()
            took.append((time.perf_counter() - began) * 1000)
            if b'"VALID"' not in answer:
                wrong.append(answer.decode())
            if len(took) % 20 == 0:
                with _connected(target["port"]) as another:
                    another.request("GET", "/healthz")
                    status = another.getresponse().status
                    if status != 200:
                        wrong.append(f"/healthz {status}")
            time.sleep(_PACE_S)
    print(json.dumps({"took": took, "wrong": wrong}))


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    if sys.argv[1] == "verify":
        verify_until_stopped(given)
    else:
        print(json.dumps(ATTACKS[sys.argv[1]](given)))
