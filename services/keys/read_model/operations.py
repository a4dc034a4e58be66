"""What an operator asks of the projection: how far it is, what it holds, and to take parked keys up again."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.keys.commands import fold
from services.keys.model.key import subject
from services.keys.model.token import is_key_id
from services.keys.read_model.generations import Views
from services.keys.read_model.projection import Changes
from shared.clock import FIRST_TIME, LAST_TIME, printable_time
from shared.eventstore.envelope import UnreadableEventError
from shared.eventstore.ledger import Ledger
from shared.eventstore.subscription import Lag, lag_of

_STORED_EXPIRY = re.compile(rb'"expires_at":(-?[0-9]+)')


@dataclass(frozen=True)
class Status:
    """Where the views stand."""

    position: int
    lag: Lag
    in_step: bool  # whether the ledger holds the event that the views end with
    parked: dict[str, str]  # the keys set aside, with the reason


def status(ledger: Ledger, views: Views, now: int) -> Status:
    """How far the views are. `now` is in ms. Raises redis.RedisError."""
    live = views.live()
    reached = live.checkpoint()
    lag = lag_of(reached.position, ledger, now)
    return Status(reached.position, lag, ledger.holds(reached), live.parked())


def keys_with_unprintable_expiry(ledger: Ledger, views: Views) -> Iterator[str]:
    """The ids of keys whose expiry, as it is stored, lies outside the years 1 to 9999.

    Raises redis.RedisError.
    """
    # Such a time is read as the first or the last that can be printed; the ledger has the one that is stored.
    for key in views.live().all_rows():
        if key.expires_at in {FIRST_TIME, LAST_TIME}:
            records = ledger.records(subject(key.id))
            stored = (int(at) for record in records for at in _STORED_EXPIRY.findall(record.body))
            if any(at != printable_time(at) for at in stored):
                yield key.id


def retry(ledger: Ledger, views: Views) -> dict[str, str | None]:
    """Takes parked keys up again, from their whole history; those that still cannot be read keep a reason.

    Raises redis.RedisError.
    """
    return {key_id: _retry(ledger, views, key_id) for key_id in views.live().parked()}


def _retry(ledger: Ledger, views: Views, key_id: str) -> str | None:
    if not is_key_id(key_id):
        return "its event does not say which key it is of"
    while True:
        live = views.live()
        checkpoint = live.checkpoint()
        try:
            events = [e for e in ledger.history(subject(key_id)) if e.position <= checkpoint.position]
            key = fold(events)
        except UnreadableEventError as error:
            return str(error)
        # Nothing is written if a projector got further meanwhile: it passed over events of this key.
        unparked = Changes(rows={key_id: key}, before=live.rows([key_id]), unparked=[key_id])
        if live.save(checkpoint, unparked, checkpoint):
            return None
