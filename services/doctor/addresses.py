"""Whether an address can be reached from this machine alone."""

import socket
from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Of a name, all that it stands for; False for one that nobody knows."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
