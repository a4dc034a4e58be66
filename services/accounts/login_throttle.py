"""Limits how often passwords are tried or set. Attempts are counted in the store, before any hashing."""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, ip_network
from typing import Literal, TypeAlias

from limits import RateLimitItem
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import Redis
from redis.exceptions import OutOfMemoryError

from services.accounts.passwords import HasherBusyError
from shared.errors import UserFacingError
from shared.eventstore.ledger import NAMESPACE
from shared.text.ip_addresses import parse_ip

_SHARED = 5  # the limit of a client in those of an account, because users share IP addresses
_IPV6_NETWORK = 64  # bits; a client with one address has all of the network

_Kind: TypeAlias = Literal["address", "account", "session", "owner", "signed in"]


class TooManyAttemptsError(UserFacingError):
    """Too many attempts. `retry_after` is in seconds, 1 or more."""

    status = 429

    def __init__(self, retry_after: int) -> None:
        minutes = math.ceil(retry_after / 60)
        wait = "a minute" if minutes == 1 else f"{minutes} minutes"
        super().__init__(f"Too many tries with a password. Wait {wait}, then try again.")
        self.retry_after = retry_after


class LoginThrottle:
    """Limits attempts at passwords.

    Each context manager counts one attempt, or raises TooManyAttemptsError. It encloses the work on the
    password, so that nothing is hashed without being counted. An attempt isn't counted if the hasher is busy.
    While the store is out of memory, each process counts on its own, and successful sign-ins count too.
    """

    def __init__(self, store: Redis, rate: RateLimitItem | None) -> None:
        # The URL isn't used: the connections are those of our own client.
        storage = RedisStorage(
            "redis://", connection_pool=store.connection_pool, key_prefix=f"{NAMESPACE}:attempts"
        )
        self._counts = SlidingWindowCounterRateLimiter(storage)
        self._counts_here = SlidingWindowCounterRateLimiter(MemoryStorage())
        shared = type(rate)(rate.amount * _SHARED, rate.multiples) if rate else None
        self._rates = {
            "address": shared,
            "account": rate,
            "session": rate,
            "owner": shared,
            "signed in": shared,
        }

    @contextmanager
    def sign_in(self, account: str, ip: str | None) -> Iterator[None]:
        """An attempt to sign in to an account, which may not exist."""
        # Attempts from a blocked network don't count against the account.
        with self._counted("address", network(ip)), self._counted("account", _digest(account)):
            yield

    def signed_in(self, account: str, ip: str | None) -> None:
        """Resets the attempts of the account, and uncounts the successful one of the network.

        Successful sign-ins are limited too, because each is an event: raises TooManyAttemptsError.
        """
        with self._counted("signed in", _digest(account)):
            pass
        if rate := self._rates["account"]:
            self._counts.clear(rate, "account", _digest(account))
        self._uncount("address", network(ip))

    @contextmanager
    def password_change(self, account: str, session: str) -> Iterator[None]:
        """An attempt to enter the current password in a session.

        Each session has its own count, so that neither failed sign-ins nor another session can prevent a
        change of the password.
        """
        with self._counted("session", _digest(f"{account} {session}")):
            yield

    @contextmanager
    def given_password(self, owner: str) -> Iterator[None]:
        """A temporary password that an owner sets for another account."""
        with self._counted("owner", _digest(owner)):
            yield

    @contextmanager
    def _counted(self, kind: _Kind, who: str) -> Iterator[None]:
        rate = self._rates[kind]
        if rate is not None and not self._hit(rate, kind, who):
            reset_at = self._counts.get_window_stats(rate, kind, who).reset_time
            raise TooManyAttemptsError(max(1, math.ceil(reset_at - time.time())))
        try:
            yield
        except HasherBusyError:
            self._uncount(kind, who)
            raise

    def _hit(self, rate: RateLimitItem, kind: _Kind, who: str) -> bool:
        try:
            return self._counts.hit(rate, kind, who)
        except OutOfMemoryError:
            return self._counts_here.hit(rate, kind, who)

    def _uncount(self, kind: _Kind, who: str) -> None:
        if rate := self._rates[kind]:
            with suppress(OutOfMemoryError):
                self._counts.hit(rate, kind, who, cost=-1)


def network(ip: str | None) -> str:
    """The client behind an IP address: an IPv4 address itself, and the network of an IPv6 address."""
    address = parse_ip(ip or "")
    if address is None:
        return "unknown"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((int(address), _IPV6_NETWORK), strict=False))


def _digest(name: str) -> str:
    # Users sometimes type a password where the e-mail address belongs.
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
