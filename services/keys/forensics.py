"""Answers what the audit service asks of keys, from the ledger itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.keys.model.key import Key, evolve
from services.keys.model.point_in_time import NotYetCreatedError, past
from services.keys.model.token import ApiKey, MalformedKeyError, parse
from services.keys.queries import Keys
from services.keys.verification.as_of import verdict_before, verdict_of
from services.keys.verification.usage import Usage
from services.keys.verification.usage_chart import DAYS, chart
from shared.eventstore.envelope import Event
from shared.eventstore.events import KeyCreated, KeyRotated
from shared.eventstore.point_in_time import PointInTime
from shared.forensics import DayOfUse, FoundKey, KeyUse, NotAKeyError, PastVerdict, Secret

_SECRETS_THAT_MATTER = 3


@dataclass(frozen=True)
class LedgerForensics:
    """The answers, as `shared.forensics.KeyForensics` describes them."""

    keys: Keys
    usage: Usage

    def verdict_at(
        self, workspace: str, key_id: str, moment: PointInTime, scopes: Sequence[str]
    ) -> PastVerdict | None:
        """What would have been said of a key then."""
        if not self.keys.is_in(workspace, key_id):
            return None
        at = self.keys.time_of(moment, key_id)
        try:
            return verdict_of(past(self.keys.events(key_id), moment, at), scopes)
        except NotYetCreatedError as error:
            return verdict_before(error.created, at)

    def find(self, workspace: str, token: str) -> FoundKey | None:
        """Whose secret this is or was."""
        try:
            presented = parse(token)
        except MalformedKeyError:
            raise NotAKeyError from None
        if not self.keys.is_in(workspace, presented.id):
            return None
        return found(presented, self.keys.events(presented.id), self.keys.commands.now())

    def use(self, key_id: str) -> KeyUse:
        """How a key was used in the last days."""
        now = self.keys.commands.now()
        drawn = chart(self.usage.read(key_id, DAYS, now), now)
        days = [DayOfUse(**bar._asdict()) for bar in drawn.busy]
        return KeyUse(last_used_at=drawn.last_used_at, days=days)


def found(presented: ApiKey, history: Iterable[Event], now: int) -> FoundKey | None:
    """What is known of a token by its key's events, at a time in ms; None: it never was the key's secret."""
    key: Key | None = None
    made: list[Event] = []  # the event that made this secret, and the two rotations after it
    for event in history:
        key = evolve(key, event)
        if isinstance(event.data, KeyCreated | KeyRotated) and (made or presented.matches(event.data.digest)):
            made.append(event)
            del made[_SECRETS_THAT_MATTER:]
    if key is None or not made:
        return None
    secret = _secret(made, key, now)
    return FoundKey(
        id=key.id,
        name=key.name,
        workspace=key.workspace,
        created_at=key.created_at,
        created_by=key.created_by,
        created_by_kind=key.created_by_kind,
        expires_at=key.expires_at,
        status=key.status(now),
        secret=secret,
        good=key.status(now) == "active" and secret.standing != "replaced",
    )


def _secret(made: Sequence[Event], key: Key, now: int) -> Secret:
    """How a secret stands: each is valid until the next one, and then for a grace period.

    That ends at the next rotation but one, and where the key expires.
    """
    since, later = made[0].at, made[1:]
    if not later:
        return Secret(standing="present", since=since, replaced_at=None, good_until=key.expires_at)
    ends = [later[0].data.previous_expires_at, *(event.at for event in later[1:])]
    good_until = min(ends if key.expires_at is None else [*ends, key.expires_at])
    return Secret(
        standing="grace" if good_until > now else "replaced",
        since=since,
        replaced_at=later[0].at,
        good_until=good_until,
    )
