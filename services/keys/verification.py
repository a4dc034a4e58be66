"""The verdict on a presented key, always from the ledger itself: a view may lag."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from services.keys.commands import fold
from services.keys.domain import Key, subject
from services.keys.key_material import MalformedKeyError, parse
from shared.identity import Principal, UnauthenticatedError
from shared.ledger import Ledger

Code: TypeAlias = Literal["VALID", "MALFORMED", "NOT_FOUND", "DISABLED", "EXPIRED"]


@dataclass(frozen=True)
class Verdict:
    """What is said of a presented key; `key` only where it was found."""

    code: Code
    key: Key | None = None


def verify(ledger: Ledger, token: str, now: int) -> Verdict:
    """The first of malformed, unknown, disabled, expired that holds. `now` is in ms.

    Raises UnreadableEventError where the key's history cannot be read whole, and redis.RedisError:
    never a guess.
    """
    try:
        api_key = parse(token)
    except MalformedKeyError:
        return Verdict("MALFORMED")
    history = ledger.history(subject(api_key.id))
    if not history:
        return Verdict("NOT_FOUND")
    key = fold(history)
    if not api_key.matches(key.digest):
        return Verdict("NOT_FOUND")
    return Verdict(_standing(key, now), key)


def _standing(key: Key, now: int) -> Code:
    if not key.enabled:
        return "DISABLED"
    return "EXPIRED" if key.status(now) == "expired" else "VALID"


_REFUSALS: dict[Code, str] = {
    "MALFORMED": "This is not a Keyledger API key, or it was mistyped. Copy it again.",
    "NOT_FOUND": "There is no such API key. Create one on the dashboard.",
    "DISABLED": "This API key is switched off. Switch it on in Keys' Details, or use another.",
    "EXPIRED": "This API key has expired. Create a new one.",
}


@dataclass(frozen=True)
class KeyAuthenticator:
    """Tells who presents a key as a bearer token: the key itself, with its scopes, in its workspace."""

    ledger: Ledger
    now: Callable[[], int]

    def __call__(self, token: str) -> Principal:
        """Raises UnauthenticatedError, UnreadableEventError, redis.RedisError."""
        verdict = verify(self.ledger, token, self.now())
        if verdict.key is None or verdict.code != "VALID":
            raise UnauthenticatedError(_REFUSALS[verdict.code])
        key = verdict.key
        return Principal(
            kind="key",
            id=key.id,
            label=key.name,
            workspace=key.workspace,
            scopes=frozenset(key.scopes),
        )
