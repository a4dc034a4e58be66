"""How often one may try to sign in: counted for each account and for each network address, in the store."""

import hashlib
import math
import time
from ipaddress import IPv4Address, ip_network

from limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis import Redis

from shared.errors import AdvisedError
from shared.ip_addresses import parse_ip
from shared.ledger import NAMESPACE

_ADDRESS_SHARE = 5  # an address may try as often as so many accounts: people share one
_IPV6_NETWORK = 64  # bits; whoever has one address has all of these


class TooManyAttemptsError(AdvisedError):
    """Too many tries; the next one may be made in so many seconds, at least 1."""

    def __init__(self, retry_after: int) -> None:
        minutes = math.ceil(retry_after / 60)
        wait = "a minute" if minutes == 1 else f"{minutes} minutes"
        super().__init__(f"Too many tries with a password. Wait {wait}, then try again.")
        self.retry_after = retry_after


class Attempts:
    """The count of tries. Each is counted before the password is looked at, so that none slips by."""

    def __init__(self, store: Redis, rate: RateLimitItem | None) -> None:
        # The address goes unused: the connections are those of our own client.
        storage = RedisStorage(
            "redis://", connection_pool=store.connection_pool, key_prefix=f"{NAMESPACE}:attempts"
        )
        self._counts = FixedWindowRateLimiter(storage)
        self._of_account = rate
        self._of_address = type(rate)(rate.amount * _ADDRESS_SHARE, rate.multiples) if rate else None

    def count(self, account: str, ip: str | None) -> None:
        """Counts one try, also for an account that there is not. Raises TooManyAttemptsError."""
        # A network that may not try any more takes nothing from the person whom it names.
        self._hit(self._of_address, "address", network(ip))
        self._hit(self._of_account, "account", _digest(account))

    def succeeded(self, account: str, ip: str | None) -> None:
        """Forgets the account's tries, and takes this one from those of the address."""
        if self._of_account and self._of_address:
            self._counts.clear(self._of_account, "account", _digest(account))
            self._counts.hit(self._of_address, "address", network(ip), cost=-1)

    def _hit(self, rate: RateLimitItem | None, kind: str, who: str) -> None:
        if rate is None or self._counts.hit(rate, kind, who):
            return
        reset_at = self._counts.get_window_stats(rate, kind, who).reset_time
        raise TooManyAttemptsError(max(1, math.ceil(reset_at - time.time())))


def network(ip: str | None) -> str:
    """The client behind an IP address: an IPv4 address itself, and the network of an IPv6 address."""
    address = parse_ip(ip or "")
    if address is None:
        return "unknown"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((int(address), _IPV6_NETWORK), strict=False))


def _digest(account: str) -> str:
    # Somebody may type a password where the address belongs.
    return hashlib.sha256(account.encode("utf-8", "surrogatepass")).hexdigest()
