"""The check of who can reach the store."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import cast

from redis import Redis

from shared.service.checks import Finding, ok, warning
from shared.service.installation import Installation


def check_access(installation: Installation) -> Iterator[Finding]:
    """Checks whether others can reach it without a password."""
    if installation.embedded:
        yield ok("through a socket that only this user can open")
        return
    options = installation.store.connection_pool.connection_kwargs
    if options.get("password") or options.get("ssl_certfile"):
        yield ok("it requires authentication")
    elif "path" not in options and not is_loopback(options.get("host", "localhost")):
        yield _open_to_others(f"at {options['host']}")
    elif addresses := _open_addresses(installation.store):
        yield _open_to_others(f"at {addresses}")
    else:
        yield ok("it can be reached only from this machine")


def _open_to_others(where: str) -> Finding:
    return warning(
        f"anyone who can reach it {where} may use it without a password",
        "Set `requirepass`, add the password to KEYLEDGER_REDIS_URL, and restrict who can reach it.",
    )


def _open_addresses(store: Redis) -> str:
    """Returns the addresses at which other machines can reach a server without a password."""
    settings = cast("dict[str, str]", store.config_get("port", "bind", "protected-mode"))
    if settings["port"] == "0" or settings["protected-mode"] == "yes":
        return ""
    addresses = (address.removeprefix("-") for address in settings["bind"].split() or ["*"])
    return ", ".join(address for address in addresses if address == "*" or not is_loopback(address))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host: all addresses of a name, and False for an unknown one."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
