"""Has new connections refused, and nobody cut off who has begun to connect.

Where a listening socket is closed, Linux hangs up on those that wait in it to be accepted, also if their
request has come. So first no more are let in, and those that wait are accepted.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_HANDSHAKE_S = 0.005  # in which who has begun to connect is connected
_LONGEST_S = 1.0  # for whoever waits to be accepted
_STEP_S = 0.001

# IP_MINTTL and IPV6_MINHOPCOUNT: a packet with fewer hops left is dropped. Nearly nobody sends with more than
# 128, so 255 drops all. Of a socket that listens these are those that begin a connection. Any process may set
# them, where some systems refuse it a packet filter.
_LEAST_HOPS = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))
_WAITING = struct.Struct("24x I")  # in TCP_INFO of a listening socket: how many wait to be accepted


def refuse_connections() -> None:
    """Refuses them at every TCP port that this process listens on. On Linux; elsewhere nothing is done.

    Who accepts at these ports is not told: it goes on to, at a socket that nobody knows.
    """
    if sys.platform != "linux":
        return
    for descriptor, listener in tcp_sockets():
        with suppress(OSError):  # as no descriptor is left: who has connected is answered all the same
            if is_listening(listener):
                _let_nobody_in(listener)
                with socket.socket(socket.AF_UNIX) as unknown:
                    unknown.bind("")
                    unknown.listen()
                    os.dup2(unknown.fileno(), descriptor)
    # Who was connected meanwhile has it from the listener. What was dropped of theirs they send again.
    for _, connection in tcp_sockets():
        _take(connection, hops=0)


def tcp_sockets() -> Iterator[tuple[int, socket.socket]]:
    """Those of this process, each with its descriptor, as one of its own that is closed afterwards."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # another thread has closed it
            if str(entry.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as found:
                    if found.family in {socket.AF_INET, socket.AF_INET6}:
                        yield int(entry.name), found


def is_listening(found: socket.socket) -> bool:
    """Whether it accepts connections, and is none itself."""
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _take(found: socket.socket, *, hops: int) -> None:
    """No packet that has fewer left."""
    for level, name in _LEAST_HOPS:
        with suppress(OSError):  # it is of the other version
            found.setsockopt(level, name, hops)


def _let_nobody_in(listener: socket.socket) -> None:
    """Whoever asks meanwhile asks again a second later, as TCP does, and is refused then."""
    _take(listener, hops=255)
    deadline = time.monotonic() + _LONGEST_S
    time.sleep(_HANDSHAKE_S)
    while _waiting(listener) and time.monotonic() < deadline:
        time.sleep(_STEP_S)


def _waiting(listener: socket.socket) -> int:
    waiting: int = _WAITING.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size))[0]
    return waiting
