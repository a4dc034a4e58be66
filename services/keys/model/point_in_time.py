"""A key as it was at a point in time. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.keys.model.key import Key, evolve
from shared.eventstore.envelope import Event
from shared.eventstore.events import (
    KeyCreated,
    KeyDetails,
    KeyDetailsChanged,
    KeyRevoked,
    KeyRotated,
    KeyToggled,
)
from shared.eventstore.payload import Payload
from shared.eventstore.point_in_time import PointInTime, Position, Time


class NotYetCreatedError(Exception):
    """The key was created after the point in time. Only for callers who may know that it exists."""

    def __init__(self, created: Event) -> None:
        super().__init__(created.subject)
        self.created = created


@dataclass(frozen=True)
class KeyAsOf:
    """A key as it was at a point in time."""

    at: int  # ms since 1970; whether the key had expired depends on it
    key: Key
    last: Event  # the latest event at that point in time
    step_back: Event | None  # the event before `last`
    step_on: Event | None  # the event after `last`
    set_by: Mapping[str, Event]  # the event that last set a field of the key


def past(history: Iterable[Event], moment: PointInTime, at: int) -> KeyAsOf:
    """Reads a history up to a moment, which was at `at` by the clock, and one event further.

    Raises NotYetCreatedError, UnreadableEventError.
    """
    key, last, step_back, step_on = None, None, None, None
    set_by: dict[str, Event] = {}
    for event in history:
        if not _had_happened(event, moment):
            step_on = event
            break
        key, last, step_back = evolve(key, event), event, last
        set_by |= dict.fromkeys(_fields_set(event.data), event)
    if key is None or last is None:
        if step_on is None:
            raise ValueError("a key without events")
        raise NotYetCreatedError(step_on)
    return KeyAsOf(at, key, last, step_back, step_on, set_by)


def _fields_set(payload: Payload) -> Iterable[str]:
    match payload:
        case KeyCreated():
            return ("enabled", "digest", "scopes", "expires_at")
        case KeyToggled():
            return ("enabled",)
        case KeyRotated():
            return ("digest",)
        case KeyRevoked():
            return ("revoked",)
        case KeyDetailsChanged(before=before, after=after):
            names = KeyDetails.__struct_fields__
            return [name for name in names if getattr(before, name) != getattr(after, name)]
        case _:
            return ()


def _had_happened(event: Event, moment: PointInTime) -> bool:
    match moment:
        case Position(position):
            return event.position <= position
        case Time(at):
            return event.at <= at
