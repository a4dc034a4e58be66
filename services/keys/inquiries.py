"""Answers what the audit service asks of keys, from the ledger itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.keys.chart import DAYS, chart
from services.keys.commands import fold
from services.keys.domain import Key, subject
from services.keys.key_material import ApiKey, MalformedKeyError, is_key_id, parse
from services.keys.moments import NotYetCreatedError, past
from services.keys.past_verdicts import verdict_before, verdict_of
from services.keys.service import Keys
from services.keys.usage import Usage
from shared.events import Event, KeyCreated, KeyRotated, decode, open_envelope
from shared.inquiries import DayOfUse, FoundKey, KeyUse, NotAKeyError, PastVerdict, Secret
from shared.moments import Moment


@dataclass(frozen=True)
class LedgerInquiries:
    """The answers, as `shared.inquiries.KeyInquiries` describes them."""

    keys: Keys
    usage: Usage

    def verdict_at(
        self, workspace: str, key_id: str, moment: Moment, scopes: Sequence[str]
    ) -> PastVerdict | None:
        """What would have been said of a key then."""
        history = self._history(workspace, key_id)
        if not history:
            return None
        at = self.keys.time_of(moment, history[-1].at)
        try:
            return verdict_of(past(history, moment, at), scopes)
        except NotYetCreatedError as error:
            return verdict_before(error.created, at)

    def find(self, workspace: str, token: str) -> FoundKey | None:
        """Whose secret this is or was."""
        try:
            presented = parse(token)
        except MalformedKeyError:
            raise NotAKeyError from None
        history = self._history(workspace, presented.id)
        return found(presented, history, self.keys.commands.now()) if history else None

    def use(self, key_id: str) -> KeyUse:
        """How a key was used in the last days."""
        now = self.keys.commands.now()
        drawn = chart(self.usage.read(key_id, DAYS, now), now)
        days = [DayOfUse(**bar._asdict()) for bar in drawn.busy]
        return KeyUse(last_used_at=drawn.last_used_at, days=days)

    def _history(self, workspace: str, key_id: str) -> list[Event]:
        """The events of a key, oldest first; none of one that is not the workspace's."""
        records = [*self.keys.commands.ledger.records(subject(key_id))] if is_key_id(key_id) else []
        if not records or open_envelope(records[0]).workspace != workspace:
            return []
        return [decode(record) for record in records]


def found(presented: ApiKey, history: Sequence[Event], now: int) -> FoundKey | None:
    """What is told of a token by its key's events, at a time in ms; None: it never was the key's secret."""
    key = fold(history)
    secret = _secret(presented, history, key, now)
    if secret is None:
        return None
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


def _secret(presented: ApiKey, history: Sequence[Event], key: Key, now: int) -> Secret | None:
    """Which of the key's secrets it is: each is good until the next one comes, and then for a grace.

    A grace ends at the next rotation but one, and where the key expires.
    """
    made = [event for event in history if isinstance(event.data, KeyCreated | KeyRotated)]
    place = next((n for n, event in enumerate(made) if presented.matches(event.data.digest)), None)
    if place is None:
        return None
    since, later = made[place].at, made[place + 1 :]
    if not later:
        return Secret(standing="present", since=since, replaced_at=None, good_until=key.expires_at)
    ends = [later[0].data.previous_expires_at, *(event.at for event in later[1:2])]
    good_until = min(ends if key.expires_at is None else [*ends, key.expires_at])
    return Secret(
        standing="grace" if good_until > now else "replaced",
        since=since,
        replaced_at=later[0].at,
        good_until=good_until,
    )
