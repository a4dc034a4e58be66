"""Stops accepting connections without dropping handshakes in progress.

When a listening socket is closed, Linux resets the connections in its backlog, even if their requests have
arrived. So new handshakes are dropped first, and the backlog is accepted.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_HANDSHAKE_S = 0.005  # in which a handshake that has begun completes
_LONGEST_S = 1.0  # for the backlog to be accepted
_STEP_S = 0.001

# IP_MINTTL and IPV6_MINHOPCOUNT: a packet with fewer hops left is dropped. Hardly any system sends with more
# than 128, so 255 drops all. On a listening socket this affects the packets that begin a connection. Any
# process may set them, while some systems don't allow it a packet filter.
_MIN_HOPS = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))
_BACKLOG = struct.Struct("24x I")  # in TCP_INFO of a listening socket: the length of its backlog


def refuse_connections() -> None:
    """Refuses connections at every TCP port that this process listens on. Does nothing except on Linux.

    The server keeps accepting, but on a socket that no client can reach.
    """
    if sys.platform != "linux":
        return
    for descriptor, listener in tcp_sockets():
        with suppress(OSError):  # if no descriptor is left: connected clients still get their responses
            if is_listening(listener):
                _drop_handshakes(listener)
                with socket.socket(socket.AF_UNIX) as unknown:
                    unknown.bind("")
                    unknown.listen()
                    os.dup2(unknown.fileno(), descriptor)
    # Connections accepted meanwhile inherited this from the listener. Their clients resend what was dropped.
    for _, connection in tcp_sockets():
        _set_min_hops(connection, 0)


def tcp_sockets() -> Iterator[tuple[int, socket.socket]]:
    """The TCP sockets of this process, each with its descriptor, as a duplicate that is closed afterwards."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # another thread has closed it
            if str(entry.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as found:
                    if found.family in {socket.AF_INET, socket.AF_INET6}:
                        yield int(entry.name), found


def is_listening(found: socket.socket) -> bool:
    """Whether a socket accepts connections, rather than being one."""
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _set_min_hops(found: socket.socket, hops: int) -> None:
    for level, name in _MIN_HOPS:
        with suppress(OSError):  # the socket is of the other IP version
            found.setsockopt(level, name, hops)


def _drop_handshakes(listener: socket.socket) -> None:
    """Clients that connect meanwhile retry a second later, as TCP does, and are refused then."""
    _set_min_hops(listener, 255)
    deadline = time.monotonic() + _LONGEST_S
    time.sleep(_HANDSHAKE_S)
    while _backlog(listener) and time.monotonic() < deadline:
        time.sleep(_STEP_S)


def _backlog(listener: socket.socket) -> int:
    backlog: int = _BACKLOG.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BACKLOG.size))[0]
    return backlog
