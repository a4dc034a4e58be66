"""The canonical form of IP addresses: each client is stored, counted and found under one spelling. Pure."""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

# `[2001:db8::1]` and `198.51.100.7`, both with or without a port, as proxies write them.
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::[0-9]{1,5})?")
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}")


@lru_cache(1024)
def canonical_ip(text: str) -> str | None:
    """The address without port, brackets and zone, IPv6 compressed in lower case; None if it isn't one.

    An IPv4 address in IPv6 notation (`::ffff:198.51.100.7`) is the IPv4 address.
    """
    address = parse_ip(text)
    return None if address is None else str(address)


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """The same address as an object, for callers that compare networks."""
    host = text.strip()
    match = _BRACKETED.fullmatch(host) or _WITH_PORT.fullmatch(host)
    if match:
        host = match[1]
    if ":" in host:
        host = host.partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
