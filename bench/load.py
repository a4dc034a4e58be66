"""An HTTP load generator: keep-alive connections, each with one request in flight."""

import select
import socket
import time
from collections.abc import Sequence


def drive(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> float:
    """Returns the number of successful responses per second. One thread sends the requests in turn."""
    poll = select.epoll()
    peers: dict[int, socket.socket] = {}
    missing: dict[int, int] = {}
    for _ in range(connections):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peers[peer.fileno()] = peer
        poll.register(peer, select.EPOLLIN)
    number = done = 0
    start = time.perf_counter()
    end = start + seconds
    for number, (descriptor, peer) in enumerate(peers.items()):
        peer.send(requests[number % len(requests)])
        missing[descriptor] = 0
    while time.perf_counter() < end:
        for descriptor, _ in poll.poll():
            peer = peers[descriptor]
            answer = peer.recv(65_536)
            if left := missing[descriptor] or _size(answer):
                missing[descriptor] = left - len(answer)
            if not missing[descriptor]:
                done += 1
                number += 1
                peer.send(requests[number % len(requests)])
    took = time.perf_counter() - start
    for peer in peers.values():
        peer.close()
    poll.close()
    return done / took


def _size(answer: bytes) -> int:
    """Returns the length of a response including its head, given its first bytes."""
    assert answer.startswith(b"HTTP/1.1 20"), answer
    head = answer.index(b"\r\n\r\n") + 4
    field = answer.index(b"content-length: ") + 16
    return head + int(answer[field : answer.index(b"\r\n", field)])
