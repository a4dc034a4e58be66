"""Verifies a key at full speed over given connections, and records when the result was VALID.

As a program, `watching.py FILE DESCRIPTOR…` reads the request from standard input, and writes the times to
FILE on SIGTERM.
"""

import select
import signal
import socket
import sys
import time
from array import array
from pathlib import Path
from threading import Event as Stop
from typing import NamedTuple

_VALID = b'"valid":true'


class Seen(NamedTuple):
    """The request and response time of each VALID over some connections."""

    answers: int
    valid: list[tuple[float, float]]


def read(path: Path) -> Seen:
    """Returns what a watcher recorded."""
    times = array("d")
    times.frombytes(path.read_bytes())
    answers, *rest = times
    return Seen(int(answers), list(zip(rest[::2], rest[1::2], strict=True)))


def watch(peers: list[socket.socket], request: bytes, stop: Stop) -> "tuple[int, array[float]]":
    """Keeps one request in flight per connection. Returns the response count, and the times of each VALID."""
    poll, asked, answers, valid = select.epoll(), {}, 0, array("d")
    for peer in peers:
        poll.register(peer, select.EPOLLIN)
        asked[peer.fileno()] = peer, time.monotonic()
        peer.sendall(request)
    while not stop.is_set():
        for descriptor, _ in poll.poll(1.0):
            peer, sent = asked[descriptor]
            answer = _whole(peer)
            received = time.monotonic()
            answers += 1
            if _VALID in answer:
                valid.extend((sent, received))
            asked[descriptor] = peer, time.monotonic()
            peer.sendall(request)
    return answers, valid


def _whole(peer: socket.socket) -> bytes:
    """Reads a response with its body. Raises ConnectionError."""
    answer, size = b"", None
    while size is None or len(answer) < size:
        part = peer.recv(65_536)
        if not part:
            raise ConnectionError(f"the server hung up after {answer!r}")
        answer += part
        if size is None and b"\r\n\r\n" in answer:
            head = answer.index(b"\r\n\r\n") + 4
            field = answer.index(b"content-length: ") + 16
            size = head + int(answer[field : answer.index(b"\r\n", field)])
    return answer


def main() -> None:
    """Verifies until SIGTERM."""
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    path, *descriptors = sys.argv[1:]
    peers = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors]
    answers, valid = watch(peers, sys.stdin.buffer.read(), stop)
    Path(path).write_bytes(array("d", [answers]).tobytes() + valid.tobytes())


if __name__ == "__main__":
    main()
