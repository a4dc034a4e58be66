"""Has new connections refused, and nobody cut off who has begun to connect.

Where a listening socket is closed, Linux hangs up on those that wait in it to be accepted, also if their
request has come. So first no more are let in, and those that wait are accepted.
"""

import ctypes
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

# For the system's packet filter: code, jump if true, jump if false, operand. Byte 13 of a TCP header has its
# flags, of which SYN is 2 and ACK 16.
_ALL_BUT_NEW_CONNECTIONS = [
    (0x30, 0, 0, 13),  # take the byte
    (0x54, 0, 0, 2 | 16),  # and of it these two
    (0x15, 0, 1, 2),  # is it a SYN alone?
    (0x06, 0, 0, 0),  # then drop it
    (0x06, 0, 0, 0xFFFF),  # else keep it
]
_SO_ATTACH_FILTER = 26
_WAITING = struct.Struct("24x I")  # in TCP_INFO of a listening socket: how many wait to be accepted


def refuse_connections() -> None:
    """Refuses them at every TCP port that this process listens on. On Linux; elsewhere nothing is done.

    Who accepts at these ports is not told: it goes on to, at a socket that nobody knows.
    """
    if sys.platform != "linux":
        return
    for descriptor in _sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as listener:
            if _is_listening(listener):
                _let_nobody_in(listener)
                with socket.socket(socket.AF_UNIX) as unknown:
                    unknown.bind("")
                    unknown.listen()
                    os.dup2(unknown.fileno(), descriptor)


def _sockets() -> Iterator[int]:
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # another thread has closed it
            if str(entry.readlink()).startswith("socket:"):
                yield int(entry.name)


def _is_listening(found: socket.socket) -> bool:
    of_tcp = found.family in {socket.AF_INET, socket.AF_INET6}
    return of_tcp and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _let_nobody_in(listener: socket.socket) -> None:
    """Whoever asks meanwhile asks again a second later, as TCP does, and is refused then."""
    program = b"".join(struct.pack("HBBI", *step) for step in _ALL_BUT_NEW_CONNECTIONS)
    kept = ctypes.create_string_buffer(program)
    pointer = struct.pack("HP", len(_ALL_BUT_NEW_CONNECTIONS), ctypes.addressof(kept))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
    deadline = time.monotonic() + _LONGEST_S
    time.sleep(_HANDSHAKE_S)
    while _waiting(listener) and time.monotonic() < deadline:
        time.sleep(_STEP_S)


def _waiting(listener: socket.socket) -> int:
    waiting: int = _WAITING.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size))[0]
    return waiting
