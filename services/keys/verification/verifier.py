"""Verdicts on API keys: from the cache while it is fresh, else from the ledger, never from a view."""

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
    """Gives verdicts. `used` records each verdict on a known key: (key ID, code, ms since 1970).

    The first of these that applies is the verdict: malformed, unknown (also for a key of another workspace),
    revoked, disabled, expired, missing scopes.
    """

    def __init__(
        self,
        ledger: Ledger,
        cache: KeyCache,
        invalidator: CacheInvalidator,
        now: Callable[[], int],
        used: Callable[[tuple[str, str, int]], object],
    ) -> None:
        self._ledger = ledger
        self._cache = cache
        self._invalidator = invalidator
        self._now = now
        self._used = used

    def __call__(
        self, token: str, scopes: Sequence[str] = (), workspace: str | None = None, min_position: int = 0
    ) -> Verdict:
        """The verdict on a token that needs the scopes, among the keys of one workspace or of all.

        It is at least as new as `min_position`. Raises BehindError, UnreadableEventError if the key's history
        can't be read completely, and redis.RedisError.
        """
        invalidator = self._invalidator
        position, fresh_until = invalidator.position, invalidator.fresh_until
        key = self._cache.find(token[_ID])
        if key is not None:
            now = self._now()
            verdict = self._judge(token, key, scopes, workspace, position, now)
            if time.monotonic() <= fresh_until and min_position <= verdict.position:
                if verdict.key is not None:
                    self._used((verdict.key.id, verdict.code, now))
                return verdict
        verdict = self._read(token, scopes, workspace, min_position)
        if verdict.key is not None:
            self._used((verdict.key.id, verdict.code, self._now()))
        return verdict

    def _read(self, token: str, scopes: Sequence[str], workspace: str | None, min_position: int) -> Verdict:
        """The verdict from the ledger. The key is cached for the next one."""
        position = self._invalidator.position
        try:
            key_id = parse(token).id
        except MalformedKeyError:
            return Verdict("MALFORMED", position)
        if min_position > position:
            position = self._ledger.head().position
            if min_position > position:
                raise BehindError(position)
        for _ in range(_TRIES):
            sent = time.monotonic()
            key = self._cache.load(key_id, self._load)
            verdict = self._judge(token, key, scopes, workspace, position, self._now())
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
        now = max(now, self._invalidator.at)
        which = _secret_of(token, key)
        if which is None or (workspace is not None and key.workspace != workspace):
            return Verdict(_why_not_found(token), position)
        rotated = which == "previous"
        until = end_of_grace(key) if rotated else end_of(key)
        return Verdict(code_at(key, now, until, scopes), max(position, key.position), key, rotated)


def _secret_of(token: str, key: CachedKey) -> Literal["current", "previous"] | None:
    """Which of the key's secrets the token has, or None."""
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
    """When the key and its current secret expire, in ms."""
    return _NEVER if key.expires_at is None else key.expires_at


def end_of_grace(key: CachedKey) -> float:
    """When the secret before the last rotation expires, in ms; 0 if there is none."""
    return min(end_of(key), key.previous_expires_at)


def _why_not_found(token: str) -> Code:
    try:
        parse(token)
    except MalformedKeyError:
        return "MALFORMED"
    return "NOT_FOUND"


def code_at(key: CachedKey, now: int, until: float, scopes: Sequence[str]) -> Code:
    """The verdict on a known key at a time in ms, with a secret that expires at `until`."""
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
    """Authenticates a bearer token: the principal is the key itself, with its scopes and workspace."""

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
