"""The address to listen on."""

import errno
import socket

from shared.errors import UserFacingError


class AddressError(UserFacingError):
    """The address cannot be listened on; the message says what to do."""


def free_address(host: str, port: int, setting: str = "KEYLEDGER_PORT") -> str:
    """Returns the IP address to listen on: of a host name the first, IPv4 before IPv6.

    Raises AddressError if it can't be listened on, for example because another program does. The error names
    the setting that the port comes from.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise AddressError(
            f"Can't listen on {host!r} ({_reason(error)}): set KEYLEDGER_HOST to an IP address or "
            "a name of this machine, without a port."
        ) from error
    try:
        family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise AddressError(
            f"Can't listen on {host} port {port} ({_reason(error)}): {_advice(error, setting)}."
        ) from error
    return str(address[0])


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _advice(error: OSError, setting: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"stop the program that uses it, or set {setting} to a free port"
        case errno.EACCES:
            return f"set {setting} to a port that this user may listen on, such as 8000"
        case _:
            return "set KEYLEDGER_HOST to an IP address or a name of this machine"
