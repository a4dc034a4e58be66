"""Keeps clients from exhausting a web process: limits connections per peer and the time for request bodies.

granian closes connections that are idle or slow to send their headers. It has neither of these two.
"""

import os
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_network
from threading import Event as Stop
from typing import NamedTuple, TypeAlias

import structlog

from shared.text.ip_addresses import parse_ip
from shared.web.server.listening import is_listening, tcp_sockets

# How many a process keeps open, most of them idle: browsers and connection pools hold several.
MAX_CONNECTIONS = 512
MAX_PER_PEER = MAX_CONNECTIONS // 2
BODY_DEADLINE_S = 5.0

_CROWDED = MAX_CONNECTIONS * 3 // 4  # above this, idle connections are closed to make room
_IDLE_MS = 2_000
_STEP_S = 0.1
_SLOW_S = 0.5  # reads of a body that take longer are examined
_UNSENT_MS = 30_000  # how long a response may wait for the client to receive it
_IPV6_NETWORK = 64  # bits; a client with one IP address usually has the whole network
# Of struct tcp_info: ms since data was last sent, and since it was last received; then how many segments with
# data were received, and how many sent.
_TCP_INFO = struct.Struct("44x I 4x I 96x I I")

# A read of a body: when it began, by the monotonic clock, and from which IP address. A plain tuple, since
# each verdict over HTTP makes one, and a named tuple takes longer to make.
_Read: TypeAlias = tuple[float, str]

_log = structlog.get_logger(__name__)


class _Connection(NamedTuple):
    """What the kernel knows about a client's connection."""

    peer: str
    idle_ms: int
    is_new: bool  # nothing was sent on it yet
    received_at: float  # by the monotonic clock
    is_waiting: bool  # for a response to what it sent last, as far as the kernel can tell


class ConnectionGuard:
    """Closes connections of one process that use up what others need. Does nothing except on Linux.

    `max_per_peer` is per IPv4 address or IPv6 /64; None where all connections come from a proxy.
    """

    def __init__(
        self, max_per_peer: int | None = MAX_PER_PEER, body_deadline_s: float = BODY_DEADLINE_S
    ) -> None:
        self.body_deadline_s = body_deadline_s
        self._max_per_peer = max_per_peer
        self._reads: dict[object, _Read] = {}
        self._ports: set[int] = set()  # at which this process listens
        self._first_seen: dict[int, float] = {}  # by the inode of a socket
        self._waiting_since: dict[int, float] = {}

    def begin_read(self, peer: str) -> object:
        """Watches the read of a body until `end_read` gets what this returns.

        After the deadline the read ends, with what has arrived.
        """
        read = object()
        self._reads[read] = (time.monotonic(), peer)
        return read

    def end_read(self, read: object) -> float:
        """Returns how long the read took, in seconds."""
        return time.monotonic() - self._reads.pop(read)[0]

    def run(self, stop: Stop) -> None:
        """Calls `step` until the stop event is set."""
        if sys.platform != "linux":
            return
        while not stop.wait(_STEP_S):
            if not self._ports:
                self._ports = _prepared_ports()
            self.step()

    def step(self) -> None:
        """Examines the connections once, if there are slow reads or many descriptors."""
        now = time.monotonic()
        slow = [read for read in list(self._reads.values()) if now - read[0] > _SLOW_S]
        if not slow:
            self._waiting_since.clear()
            # Ten times a second, and faster than by pathlib.
            if len(os.listdir("/proc/self/fd")) <= (self._max_per_peer or MAX_PER_PEER) // 2:  # noqa: PTH208
                return
        seen = {inode: _examined(found, now) for inode, found in self._sockets()}
        self._first_seen = {inode: self._first_seen.get(inode, now) for inode in seen}
        ending = dict.fromkeys(self._late(seen, slow, now), socket.SHUT_RD)
        ending |= dict.fromkeys([*self._idle(seen), *self._excess(seen)], socket.SHUT_RDWR)
        if ending:
            for inode, found in self._sockets():
                if inode in ending:
                    with suppress(OSError):  # it is closed already
                        found.shutdown(ending[inode])

    def _excess(self, seen: Mapping[int, _Connection]) -> Iterator[int]:
        """The newest connections of each peer that has too many."""
        if self._max_per_peer is None:
            return
        peers: dict[str, list[int]] = defaultdict(list)
        for inode, connection in seen.items():
            peers[_network(connection.peer)].append(inode)
        for network, inodes in peers.items():
            inodes.sort(key=lambda inode: (self._first_seen[inode], seen[inode].is_new, inode))
            if newest := inodes[self._max_per_peer :]:
                _log.warning("too many connections", peer=network, closed=len(newest))
                yield from newest

    def _idle(self, seen: Mapping[int, _Connection]) -> list[int]:
        """The connections that have been idle for longest, if all peers together have too many."""
        idle = [inode for inode, connection in seen.items() if connection.idle_ms > _IDLE_MS]
        idle.sort(key=lambda inode: -seen[inode].idle_ms)
        ended = idle[: max(0, len(seen) - _CROWDED)]
        if ended:
            _log.warning("too many idle connections", closed=len(ended), open=len(seen))
        return ended

    def _late(self, seen: Mapping[int, _Connection], slow: Sequence[_Read], now: float) -> Iterator[int]:
        """The connections of reads that are past the deadline.

        The connection of a read isn't known, but its peer is. Of the peer's connections that have waited for
        a response for that long, it is the one that last sent data when the read began. A client that reads
        earlier responses slowly doesn't seem to wait: after twice the deadline, all connections of the peer
        are closed, or, if the peer is a proxy, the most likely one of them all.
        """
        peers = {peer for _, peer in slow}
        self._waiting_since = {
            inode: self._waiting_since.get(inode, now)
            for inode, connection in seen.items()
            if connection.is_waiting and connection.peer in peers
        }
        longest = self.body_deadline_s - _SLOW_S
        waited = [inode for inode, since in self._waiting_since.items() if now - since > longest]
        for began, peer in slow:
            of_peer = [inode for inode, connection in seen.items() if connection.peer == peer]
            is_overdue = now - began > 2 * self.body_deadline_s
            if is_overdue and self._max_per_peer is not None:
                yield from of_peer
            elif now - began > self.body_deadline_s:
                likely = of_peer if is_overdue else [inode for inode in waited if inode in of_peer]
                if likely:
                    found = min(likely, key=lambda inode: abs(seen[inode].received_at - began))
                    if found in waited:
                        waited.remove(found)
                    yield found

    def _sockets(self) -> Iterator[tuple[int, socket.socket]]:
        """Duplicates of the clients' connections with their inodes; each is closed before the next one."""
        for descriptor, found in tcp_sockets():
            with suppress(OSError):  # it listens, or has been closed
                if found.getsockname()[1] in self._ports and found.getpeername():
                    yield os.fstat(descriptor).st_ino, found


def _examined(found: socket.socket, now: float) -> _Connection:
    info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    sent_ms, received_ms, received, sent = _TCP_INFO.unpack(info.ljust(_TCP_INFO.size, b"\0"))
    try:
        peer = found.getpeername()[0]
    except OSError:  # it was closed meanwhile
        peer = ""
    is_waiting = received > 0 and (sent == 0 or received_ms < sent_ms)
    return _Connection(peer, min(sent_ms, received_ms), sent == 0, now - received_ms / 1000, is_waiting)


def _network(peer: str) -> str:
    address = parse_ip(peer)
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), _IPV6_NETWORK), strict=False))
    return str(address)


def _prepared_ports() -> set[int]:
    """The ports that this process listens on. Their new connections time out if a response isn't received."""
    ports = set()
    for _, listener in tcp_sockets():
        if is_listening(listener):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MS)
            ports.add(listener.getsockname()[1])
    return ports
