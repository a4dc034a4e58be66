"""What the audit service asks the key service about keys. Pure.

Times are ms since 1970. Every question is about the keys of one workspace; any other key is unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

from shared.eventstore.envelope import ActorKind
from shared.eventstore.point_in_time import PointInTime

# The codes of a verdict on a key at a point in time. NOT_FOUND: before it was created.
PAST_CODES = ("VALID", "NOT_FOUND", "REVOKED", "DISABLED", "EXPIRED", "INSUFFICIENT_SCOPES")

# The current secret of a key, an earlier one in its grace period, or one that has ended.
SecretStanding: TypeAlias = Literal["present", "grace", "replaced"]
SECRET_STANDINGS: tuple[SecretStanding, ...] = get_args(SecretStanding)


class NotAKeyError(Exception):
    """A text isn't a Keyledger key, or was mistyped. The message leaves it out: it may be most of a key."""


@dataclass(frozen=True, kw_only=True)
class PastKey:
    """A key at a point in time."""

    id: str
    name: str
    scopes: tuple[str, ...]
    expires_at: int | None
    enabled: bool
    revoked: bool


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The event that decided a verdict."""

    position: int
    at: int
    type: str
    actor: str  # the label
    actor_kind: ActorKind


@dataclass(frozen=True, kw_only=True)
class PastVerdict:
    """The verdict on a key at a point in time."""

    code: str  # of PAST_CODES
    words: str  # yes or no, and why
    at: int  # the point in time, in ms
    key: PastKey | None  # None before it was created
    cause: Cause
    earlier_secret_until: int | None  # until when the secret before the last rotation was also valid

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
    good_until: int | None  # by expiry or rotation; None: it doesn't end


@dataclass(frozen=True, kw_only=True)
class FoundKey:
    """The key that a token belongs to, and its current status."""

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
    """How often a key was accepted and refused on a day in UTC; `reasons` counts the refusals by code."""

    date: str
    accepted: int
    refused: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class KeyUse:
    """The use of a key in the last 30 days: the days that have uses, newest first."""

    last_used_at: int | None
    days: Sequence[DayOfUse]


class KeyForensics(Protocol):
    """Answers questions about keys. Every method raises redis.RedisError."""

    def verdict_at(
        self, workspace: str, key_id: str, point_in_time: PointInTime, scopes: Sequence[str]
    ) -> PastVerdict | None:
        """Returns the verdict on a key that had to hold the scopes, or None if there is no such key.

        Raises PointInTimeError for the future, and UnreadableEventError.
        """
        ...

    def find(self, workspace: str, token: str) -> FoundKey | None:
        """Returns the key whose secret this is or was, or None if the workspace has no such key.

        The token is never stored. Raises NotAKeyError and UnreadableEventError.
        """
        ...

    def use(self, key_id: str) -> KeyUse:
        """Returns the use of a key, with any of its secrets."""
        ...
