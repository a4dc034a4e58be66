"""What the audit service asks of keys, and the plain answers; composition lends it who knows. Pure.

Times are ms since 1970. Every question is about the keys of one workspace: those of others are as unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

from shared.eventstore.events import ActorKind
from shared.eventstore.point_in_time import PointInTime

# Those of a verdict on a presented key that can be said of a key at a moment; NOT_FOUND: before its creation.
PAST_CODES = ("VALID", "NOT_FOUND", "REVOKED", "DISABLED", "EXPIRED", "INSUFFICIENT_SCOPES")

# The secret that a key has, one before that is still good for a grace, or one whose time is over.
SecretStanding: TypeAlias = Literal["present", "grace", "replaced"]
SECRET_STANDINGS: tuple[SecretStanding, ...] = get_args(SecretStanding)


class NotAKeyError(Exception):
    """A text is no key of ours, or was mistyped. It is not told: what is no whole key may be most of one."""


@dataclass(frozen=True, kw_only=True)
class PastKey:
    """A key as it was."""

    id: str
    name: str
    scopes: tuple[str, ...]
    expires_at: int | None
    enabled: bool
    revoked: bool


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The event that made it so."""

    position: int
    at: int
    type: str
    actor: str  # the label
    actor_kind: ActorKind


@dataclass(frozen=True, kw_only=True)
class PastVerdict:
    """What would have been said of a key at a moment."""

    code: str  # of PAST_CODES
    words: str  # yes or no, and why
    at: int  # the moment by the clock
    key: PastKey | None  # None before it was created
    cause: Cause
    earlier_secret_until: int | None  # until when the secret before the last rotation was good too, if it was

    @property
    def valid(self) -> bool:
        """Whether the key would have been accepted."""
        return self.code == "VALID"


@dataclass(frozen=True, kw_only=True)
class Secret:
    """Which of a key's secrets a token is."""

    standing: SecretStanding
    since: int
    replaced_at: int | None
    good_until: int | None  # whatever else ended it; None: it had no end


@dataclass(frozen=True, kw_only=True)
class FoundKey:
    """Whose secret a token is, and how the key stands now."""

    id: str
    name: str
    workspace: str
    created_at: int
    created_by: str
    created_by_kind: ActorKind
    expires_at: int | None
    status: str
    secret: Secret
    good: bool  # whether the token is accepted now


@dataclass(frozen=True, kw_only=True)
class DayOfUse:
    """How often a key was accepted and refused on a day in UTC, and why refused: codes and how often."""

    date: str
    accepted: int
    refused: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class KeyUse:
    """How a key was used in the last 30 days; the days that have uses, newest first."""

    last_used_at: int | None
    days: Sequence[DayOfUse]


class KeyForensics(Protocol):
    """Who knows the keys. Every question raises redis.RedisError."""

    def verdict_at(
        self, workspace: str, key_id: str, moment: PointInTime, scopes: Sequence[str]
    ) -> PastVerdict | None:
        """What would have been said of a key then, if it had to hold the scopes; None: there is no such key.

        Raises PointInTimeError, if the moment is yet to come, and UnreadableEventError: nobody guesses.
        """
        ...

    def find(self, workspace: str, token: str) -> FoundKey | None:
        """Whose secret this is or was; None: of no key of the workspace. The token is kept nowhere.

        Raises NotAKeyError, and UnreadableEventError.
        """
        ...

    def use(self, key_id: str) -> KeyUse:
        """How a key was used, with whichever of its secrets."""
        ...
