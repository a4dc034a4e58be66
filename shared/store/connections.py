"""Connections to a store by its URL, which is trusted only if it keeps what it has acknowledged."""

import logging
import re
from contextlib import suppress
from functools import cache, partial
from inspect import signature
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, SSLConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from redis.utils import str_if_bytes

from shared.errors import UserFacingError

# What a server must have set to keep what it has acknowledged.
DURABLE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
# What a URL may set of its client.
_OPTIONS = frozenset(
    {"client_name", "db", "password", "socket_keepalive", "username"}
    | {
        f"ssl_{name}"
        for name in ("ca_certs", "ca_path", "cert_reqs", "certfile", "check_hostname", "keyfile")
    }
)
# Each of these needs the right to write, and room to, and does nothing to a key that isn't there.
_WRITE_NOTHING = """
redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'a', 'b')
redis.call('SET', KEYS[1], '', 'XX')
redis.call('ZADD', KEYS[1], 'XX', 1, 'a')
redis.call('LPUSHX', KEYS[1], 'a')
redis.call('DEL', KEYS[1])
"""
_ACL_FAILURE = re.compile(r"NOPERM|ACL failure|no permissions|can't run this command", re.IGNORECASE)
_DATABASE = re.compile(r"/?|/[0-9]+/?")
_NO_KEY = "{kl:0}:no-such-key"
_log = logging.getLogger(__name__)


class StoreError(UserFacingError):
    """The store cannot be used as it is; the message is one line that says what to do."""


class StoreUnavailableError(StoreError):
    """No server answers there."""


class UnsafeStoreError(StoreError, RedisConnectionError):
    """The server could lose events.

    It's a connection error as well, so that code that waits for an unavailable store waits for this one too.
    """


class ReadOnlyStoreError(StoreError):
    """The server is a replica, or its user may not write."""


class DataDirectoryError(StoreError):
    """The data directory cannot be written to."""


class DataDirectoryInUseError(StoreError):
    """Another process runs the embedded server of the data directory."""


def connect(url: str, *, allow_unsafe: bool = False, timeout: float = 1.5) -> Redis:
    """A client of the server at `url`, which connects when it is first used.

    `timeout` is in seconds and bounds each answer: it must be longer than any blocking read.
    Every new connection reads the server's settings first, and raises UnsafeStoreError if it could lose
    events; `allow_unsafe` makes that a warning. Nothing is ever sent twice: after a lost connection the
    caller alone knows whether that would be right. Raises StoreUnavailableError for a URL of no use.
    """
    try:
        _refuse_options(url)
        _refuse_database(url)
        client = unchecked_client(url, timeout)
        pool = client.connection_pool
        pool.connection_kwargs["redis_connect_func"] = partial(
            _admit, address=_address(pool), allow_unsafe=allow_unsafe
        )
        # Options in the URL are looked at only here: this makes a connection, but does not open it.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, RedisError):
        # Neither the URL nor the parser's own words are shown: both may hold the password.
        message = (
            # pragma: allowlist nextline secret
            "KEYLEDGER_REDIS_URL cannot be read: it must look like redis://user:password@host:6379/0, "
            "rediss://host:6379/0 or unix:///path/to/socket, with special characters percent-encoded."
        )
        raise StoreUnavailableError(message) from None
    return client


def _refuse_options(url: str) -> None:
    """Refuses those by which the client would give other answers than are expected."""
    for name in parse_qs(urlsplit(url).query, keep_blank_values=True):
        if name not in _OPTIONS:
            # A name that the client does not know may be the end of a password with a question mark.
            what = f"the option {name}" if name in signature(Redis).parameters else "an option"
            raise StoreUnavailableError(
                f"KEYLEDGER_REDIS_URL has {what}, which Keyledger doesn't support: remove it. "
                f"Supported are {', '.join(sorted(_OPTIONS))}."
            ) from None


def _refuse_database(url: str) -> None:
    """Refuses a path for which the client would silently use database 0. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        raise ValueError


def unchecked_client(url: str, timeout: float) -> Redis:
    """A client that takes any server, also one that could lose events; `timeout` is in seconds."""
    # RESP2, for over RESP3 redis-py asks each server for notices that only a commercial one sends.
    # No retries, for they would send again what may have been done.
    return Redis.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
    )


def ensure_reachable(client: Redis) -> None:
    """Asks the server for an answer. Raises StoreUnavailableError, UnsafeStoreError."""
    address = _address(client.connection_pool)
    try:
        client.ping()
    except UnsafeStoreError:
        raise
    except AuthenticationError as error:
        message = f"The store at {address} refuses the user or password: correct KEYLEDGER_REDIS_URL."
        raise StoreUnavailableError(message) from error
    except BusyLoadingError as error:
        message = f"The store at {address} is still loading its data: try again in a moment."
        raise StoreUnavailableError(message) from error
    except (RedisError, ValueError) as error:  # ValueError: the host's name cannot be looked up
        reason = " ".join(str(error).split()).rstrip(".")
        message = (
            f"The store at {address} does not answer ({reason}): start it, or correct KEYLEDGER_REDIS_URL."
        )
        raise StoreUnavailableError(message) from error


def ensure_usable(client: Redis) -> None:
    """The same, and whether its user may write. Raises ReadOnlyStoreError as well.

    A server that takes no writes for now, as one that is out of memory, is no reason not to start: verdicts
    need none.
    """
    ensure_reachable(client)
    with suppress(RedisError):
        refuse_read_only(client)


def refuse_read_only(client: Redis) -> None:
    """Asks whether the server takes writes, and writes nothing.

    Raises ReadOnlyStoreError where it never will as it is set up, and redis.RedisError where it doesn't now.
    """
    address = _address(client.connection_pool)
    try:
        client.eval(_WRITE_NOTHING, 1, _NO_KEY)
    except ReadOnlyError as error:
        message = f"The store at {address} is a replica: name its primary in KEYLEDGER_REDIS_URL."
        raise ReadOnlyStoreError(message) from error
    except ResponseError as error:
        if not isinstance(error, NoPermissionError) and not _ACL_FAILURE.search(str(error)):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise ReadOnlyStoreError(
            f"The store at {address} does not let its user write ({reason}): let the user run all commands "
            "on all keys and channels, as `+@all ~* &*` does."
        ) from error


def is_read_from(client: Redis) -> bool:
    """Whether a client waits for new entries of a stream, as every subscription does.

    Returns False if the store's user may not list clients.
    """
    try:
        others = client.client_list()
    except NoPermissionError:
        return False
    return any(each["cmd"] == "xread" and "b" in each["flags"] for each in others)


def _admit(connection: Any, *, address: str, allow_unsafe: bool) -> None:
    """Opens the session of a new connection, and looks whether the server keeps what it acknowledges."""
    connection.on_connect()
    flaw = _flaw(connection)
    if flaw is None:
        return
    if not allow_unsafe:
        raise UnsafeStoreError(
            f"The store at {address} {flaw} (KEYLEDGER_ALLOW_UNSAFE_STORE=1 takes it as it is)"
        )
    _warn_once(f"The store at {address} {flaw}")


def _flaw(connection: Any) -> str | None:
    """Why the server may not be trusted with events, as the rest of a sentence."""
    try:
        version = re.search(r"^redis_version:(\d+)", _ask(connection, "INFO", "server"), re.MULTILINE)
        if version is None or int(version[1]) < 7:
            return "is too old: run Redis 7.0 or later, or Valkey 8 or later."
        reply = map(str_if_bytes, _ask(connection, "CONFIG", "GET", *DURABLE))
    except ResponseError as error:
        if str(error).startswith("BUSY "):  # a slow script runs, and nothing else may until it ends
            raise
        return "does not show its settings: allow its user INFO and CONFIG GET."
    settings = dict(zip(reply, reply, strict=True))
    wrong = [f"`{name} {value}`" for name, value in DURABLE.items() if settings.get(name) != value]
    return f"could lose events: set {', '.join(wrong)} in its configuration." if wrong else None


def _ask(connection: Any, *command: str) -> Any:
    connection.send_command(*command)
    return str_if_bytes(connection.read_response())


@cache
def _warn_once(message: str) -> None:
    _log.warning(message)


def _address(pool: ConnectionPool) -> str:
    """Where a client connects to, without the user and the password."""
    options = pool.connection_kwargs
    if "path" in options:
        return f"unix://{options['path']}"
    scheme = "rediss" if issubclass(pool.connection_class, SSLConnection) else "redis"
    return f"{scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
