"""A key's history as it was at a moment. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.events import Event
from shared.moments import Moment, Position, Time


class NotYetCreatedError(Exception):
    """The key came to be only after the moment. Only for those who may know that there is such a key."""

    def __init__(self, created: Event) -> None:
        super().__init__(created.subject)
        self.created = created


@dataclass(frozen=True)
class Past:
    """A key's history cut at a moment."""

    at: int  # ms since 1970; whether the key had expired depends on it
    before: Sequence[Event]  # with what happened at the moment itself; never empty
    after: Sequence[Event]

    @property
    def last(self) -> Event:
        """What had happened to the key last."""
        return self.before[-1]

    @property
    def step_back(self) -> Event | None:
        """What had happened before that."""
        return self.before[-2] if len(self.before) > 1 else None

    @property
    def step_on(self) -> Event | None:
        """What was to happen next."""
        return self.after[0] if self.after else None


def past(history: Sequence[Event], moment: Moment, at: int) -> Past:
    """Cuts a history at a moment, which was at `at` by the clock. Raises NotYetCreatedError."""
    before = [event for event in history if _had_happened(event, moment)]
    if not before:
        raise NotYetCreatedError(history[0])
    return Past(at, before, history[len(before) :])


def _had_happened(event: Event, moment: Moment) -> bool:
    match moment:
        case Position(position):
            return event.position <= position
        case Time(at):
            return event.at <= at
