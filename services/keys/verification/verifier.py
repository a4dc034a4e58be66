"""The verdict on a presented key: from memory where that is current, else from the ledger itself.

Never from a view, which may lag, and never a guess.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import msgspec
from redis.exceptions import TimeoutError as StoreTimeoutError

from services.keys.model.key import subject
from services.keys.model.token import MalformedKeyError, parse
from services.keys.verification.cache import CachedKey, KeyCache, cached_key
from services.keys.verification.invalidation import FRESH_S, CacheInvalidator
from shared.eventstore.ledger import Ledger
from shared.identity import InvalidKeyError, Principal

Code: TypeAlias = Literal[
    "VALID", "MALFORMED", "NOT_FOUND", "REVOKED", "DISABLED", "EXPIRED", "INSUFFICIENT_SCOPES"
]
CODES: tuple[Code, ...] = get_args(Code)

# A token's id, counted from its end: the prefix has any length.
_ID = slice(-50, -38)
_TRIES = 3


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What is said of a presented key, and the position of the ledger that it is at least as new as.

    `key` only where it was found and the caller may see it. `rotated_secret`: the token has the secret from
    before the last rotation.
    """

    code: Code
    position: int
    key: CachedKey | None = None
    rotated_secret: bool = False


class BehindError(Exception):
    """The ledger has not reached the position that the caller asked for; it may be another ledger."""

    def __init__(self, head: int) -> None:
        super().__init__(f"The ledger is at position {head} and hasn't reached the one you asked for.")
        self.head = head


class Verifier:
    """Gives verdicts. `used` is told of each on a key that was found: (key id, code, ms since 1970).

    A verdict is the first that holds of malformed, unknown, of another workspace (which is as unknown),
    revoked, disabled, expired, scopes lacking.
    """

    def __init__(
        self,
        ledger: Ledger,
        memory: KeyCache,
        tail: CacheInvalidator,
        now: Callable[[], int],
        used: Callable[[tuple[str, str, int]], object],
    ) -> None:
        self._ledger = ledger
        self._memory = memory
        self._tail = tail
        self._now = now
        self._used = used

    def __call__(
        self, token: str, scopes: Sequence[str] = (), workspace: str | None = None, least: int = 0
    ) -> Verdict:
        """The verdict on a token that has to hold the scopes; of the keys of one workspace, or of all.

        It is at least as new as position `least`. Raises BehindError, UnreadableEventError where the key's
        history cannot be read whole, and redis.RedisError.
        """
        tail = self._tail
        position, fresh_until = tail.position, tail.fresh_until
        standing = self._memory.find(token[_ID])
        if standing is not None:
            now = self._now()
            verdict = self._judge(token, standing, scopes, workspace, position, now)
            if time.monotonic() <= fresh_until and least <= verdict.position:
                if verdict.key is not None:
                    self._used((verdict.key.id, verdict.code, now))
                return verdict
        verdict = self._read(token, scopes, workspace, least)
        if verdict.key is not None:
            self._used((verdict.key.id, verdict.code, self._now()))
        return verdict

    def _read(self, token: str, scopes: Sequence[str], workspace: str | None, least: int) -> Verdict:
        """The verdict from the ledger, which is kept in memory for the next."""
        position = self._tail.position
        try:
            key_id = parse(token).id
        except MalformedKeyError:
            return Verdict("MALFORMED", position)
        if least > position:
            position = self._ledger.head().position
            if least > position:
                raise BehindError(position)
        for _ in range(_TRIES):
            sent = time.monotonic()
            standing = self._memory.load(key_id, self._load)
            verdict = self._judge(token, standing, scopes, workspace, position, self._now())
            if time.monotonic() <= sent + FRESH_S:
                return verdict
        raise StoreTimeoutError("The ledger is read too slowly for a verdict.")

    def _load(self, key_id: str) -> CachedKey:
        return cached_key(self._ledger.history(subject(key_id)))

    def _judge(
        self,
        token: str,
        key: CachedKey,
        scopes: Sequence[str],
        workspace: str | None,
        position: int,
        now: int,
    ) -> Verdict:
        # A clock that was set back makes no expired key valid that had expired before the last event.
        now = max(now, self._tail.at)
        which = _secret_of(token, key)
        if which is None or (workspace is not None and key.workspace != workspace):
            return Verdict(_why_not_found(token), position)
        rotated = which == "previous"
        until = end_of_grace(key) if rotated else end_of(key)
        return Verdict(code_at(key, now, until, scopes), max(position, key.position), key, rotated)


def _secret_of(token: str, key: CachedKey) -> Literal["current", "previous"] | None:
    """Which of the key's secrets the token has; None: neither."""
    try:
        digest = hashlib.sha256(token.encode()).digest()
    except UnicodeEncodeError:
        return None
    if hmac.compare_digest(digest, key.digest):
        return "current"
    if key.previous_digest is not None and hmac.compare_digest(digest, key.previous_digest):
        return "previous"
    return None


_NEVER = float("inf")


def end_of(key: CachedKey) -> float:
    """When the time of the key and its present secret is over, in ms."""
    return _NEVER if key.expires_at is None else key.expires_at


def end_of_grace(key: CachedKey) -> float:
    """When that of the secret before the last rotation is over; 0, if there is none."""
    return min(end_of(key), key.previous_expires_at)


def _why_not_found(token: str) -> Code:
    try:
        parse(token)
    except MalformedKeyError:
        return "MALFORMED"
    return "NOT_FOUND"


def code_at(key: CachedKey, now: int, until: float, scopes: Sequence[str]) -> Code:
    """What is so of a known key at a time in ms, if the time of the secret in question is over at `until`."""
    if key.revoked:
        return "REVOKED"
    if not key.enabled:
        return "DISABLED"
    if until <= now:
        return "EXPIRED"
    for scope in scopes:
        if scope not in key.scopes:
            return "INSUFFICIENT_SCOPES"
    return "VALID"


REFUSALS: dict[Code, str] = {
    "MALFORMED": "This isn't a Keyledger API key, or it was mistyped. Copy it again.",
    "NOT_FOUND": "No such API key. Create one on the dashboard.",
    "REVOKED": "This API key was permanently revoked. Create another.",
    "DISABLED": "This API key is disabled. Enable it in Keys' Details, or use another.",
    "EXPIRED": "This API key has expired. Create a new one.",
    "INSUFFICIENT_SCOPES": "This API key lacks a required scope. Use one that holds it.",
}


@dataclass(frozen=True)
class KeyAuthenticator:
    """Tells who presents a key as a bearer token: the key itself, with its scopes, in its workspace."""

    verify: Verifier

    def __call__(self, token: str) -> Principal:
        """Raises UnauthenticatedError, UnreadableEventError, redis.RedisError."""
        verdict = self.verify(token)
        if verdict.key is None or verdict.code != "VALID":
            raise InvalidKeyError(REFUSALS[verdict.code])
        return _principal(verdict.key, verdict.rotated_secret)


@lru_cache(1024)
def _principal(key: CachedKey, rotated_secret: bool) -> Principal:
    return Principal(
        kind="key",
        id=key.id,
        label=key.name,
        workspace=key.workspace,
        scopes=frozenset(key.scopes),
        rotated_secret=rotated_secret,
    )
