"""Keeps clients from holding a web process: a cap of connections per peer, and a deadline for request bodies.

granian closes connections that are idle or slow to send their headers. It has neither of these two.
"""

import os
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_network
from threading import Event as Stop

import structlog

from shared.ip_addresses import parse_ip
from shared.web.listening import is_listening, tcp_sockets

MAX_CONNECTIONS = (
    512  # that a process keeps open, most of them idle: browsers and clients' pools hold several
)
MAX_PER_PEER = MAX_CONNECTIONS // 2
BODY_DEADLINE_S = 5.0

_STEP_S = 0.1
_SLOW_S = 0.5  # after which a read of a body is watched
_UNSENT_MS = 30_000  # that an answer may wait for a client to take it
_IPV6_NETWORK = 64  # bits; a client that has one address has all of these
# Of struct tcp_info: ms since data was last sent, and since it was last received.
_LAST_DATA = struct.Struct("44x I 4x I")

_log = structlog.get_logger(__name__)


class ConnectionGuard:
    """Closes connections of one process that hold what others need. On Linux; elsewhere it does nothing.

    `max_per_peer` is per IPv4 address or IPv6 /64; None where all connections come from a proxy.
    """

    def __init__(
        self, max_per_peer: int | None = MAX_PER_PEER, body_deadline_s: float = BODY_DEADLINE_S
    ) -> None:
        self._max_per_peer = max_per_peer
        self.body_deadline_s = body_deadline_s
        self._reads: dict[object, tuple[float, str]] = {}  # when each began, and from which address it reads
        self._ports: set[int] = set()  # at which this process listens
        self._first_seen: dict[int, float] = {}  # by the inode of a socket
        self._unanswered_since: dict[int, float] = {}

    @contextmanager
    def reading(self, address: str) -> Iterator[None]:
        """Watches the read of a body from a peer. After the deadline the read ends, with what has arrived."""
        read = object()
        self._reads[read] = time.monotonic(), address
        try:
            yield
        finally:
            del self._reads[read]

    def run(self, stop: Stop) -> None:
        """Watches until told to stop."""
        if sys.platform != "linux":
            return
        while not stop.wait(_STEP_S):
            if not self._ports:
                self._ports = _prepared_ports()
            self.step()

    def step(self) -> None:
        """Looks once at the connections, if any of them could hold something."""
        now = time.monotonic()
        began = [read for read in list(self._reads.values()) if now - read[0] > _SLOW_S]
        self._end_late_bodies(began, now)
        if self._max_per_peer is not None:
            self._close_excess(self._max_per_peer, now)

    def _close_excess(self, most: int, now: float) -> None:
        """Of a peer with more connections than it may have, the newest are closed."""
        if len(os.listdir("/proc/self/fd")) <= most // 2:  # noqa: PTH208  # ten times a second, and faster
            return
        peers: dict[str, list[int]] = defaultdict(list)
        for inode, _, peer in self._connections():
            self._first_seen.setdefault(inode, now)
            peers[_network(peer)].append(inode)
        open_now = {inode for inodes in peers.values() for inode in inodes}
        self._first_seen = {inode: seen for inode, seen in self._first_seen.items() if inode in open_now}
        excess: set[int] = set()
        for network, inodes in peers.items():
            newest = sorted(inodes, key=lambda inode: (self._first_seen[inode], inode))[most:]
            if newest:
                _log.warning("too many connections", peer=network, closed=len(newest), limit=most)
                excess.update(newest)
        if excess:
            for inode, connection, _ in self._connections():
                if inode in excess:
                    _shut(connection, socket.SHUT_RDWR)

    def _end_late_bodies(self, slow: list[tuple[float, str]], now: float) -> None:
        """Ends the reads that are late.

        Which connection a read belongs to isn't known, but its peer is: of the peer's connections those are
        ended that have sent something and got no answer since. Where none of them is like that, because
        the body followed an answer at once, all are ended that got nothing for as long.
        """
        if not slow:
            self._unanswered_since.clear()
            return
        age = {address: now - min(at for at, of in slow if of == address) for _, address in slow}
        waiting: dict[int, float] = {}
        for inode, connection, peer in self._connections():
            if peer not in age:
                continue
            sent_ms, received_ms = _last_data(connection)
            if received_ms < sent_ms:
                waiting[inode] = self._unanswered_since.get(inode, now)
                if now - waiting[inode] > self.body_deadline_s - _SLOW_S:
                    _shut(connection, socket.SHUT_RD)
            elif age[peer] > 2 * self.body_deadline_s and sent_ms > self.body_deadline_s * 1000:
                _shut(connection, socket.SHUT_RD)
        self._unanswered_since = waiting

    def _connections(self) -> Iterator[tuple[int, socket.socket, str]]:
        """The inode, the socket and the peer's address of each connection that a client made."""
        for descriptor, found in tcp_sockets():
            try:
                if found.getsockname()[1] in self._ports:
                    yield os.fstat(descriptor).st_ino, found, found.getpeername()[0]
            except OSError:  # it listens, or has been closed
                continue


def _network(peer: str) -> str:
    address = parse_ip(peer)
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), _IPV6_NETWORK), strict=False))
    return str(address)


def _last_data(connection: socket.socket) -> tuple[int, int]:
    """Milliseconds since something was sent, and since something was received."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.size)
    sent, received = _LAST_DATA.unpack(info)
    return sent, received


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:  # it is closed already
        return


def _prepared_ports() -> set[int]:
    """Where this process listens. Connections accepted from now on end if an answer isn't taken."""
    ports = set()
    for _, listener in tcp_sockets():
        if is_listening(listener):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNSENT_MS)
            ports.add(listener.getsockname()[1])
    return ports
