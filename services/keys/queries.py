"""Reading keys and running commands on them, for the API and the pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from services.keys.commands import KeyCommands, NoSuchKeyError, fold
from services.keys.model.key import Key, subject
from services.keys.model.point_in_time import KeyAsOf, past
from services.keys.model.token import is_key_id
from services.keys.read_model.criteria import ALL, Criteria
from services.keys.read_model.generations import Views
from services.keys.read_model.query import Page
from shared.eventstore.codec import decode, open_envelope
from shared.eventstore.envelope import Event
from shared.eventstore.point_in_time import PointInTime, PointInTimeError, Position
from shared.identity import KEYS_READ, Principal, authorize, visible


class History(NamedTuple):
    """A page of a key's events, and whether others follow."""

    events: list[Event]
    more: bool


@dataclass(frozen=True)
class Keys:
    """Commands to change keys, and views to read them."""

    commands: KeyCommands
    views: Views

    def page(self, principal: Principal, limit: int, cursor: str | None, criteria: Criteria = ALL) -> Page:
        """Some of the caller's keys. Raises ForbiddenError."""
        authorize(principal, KEYS_READ)
        return self.views.page(principal.workspace, limit, cursor, criteria)

    def reached(self, after: int) -> tuple[int, bool]:
        """Waits up to 2 s for the views to reach a position. Returns theirs, and whether it is still lower.

        It doesn't wait for positions that have no event yet.
        """
        position = self.views.live().checkpoint().position
        if position < after:
            self.views.wait_for(min(after, self.commands.ledger.head().position))
            position = self.views.live().checkpoint().position
        return position, position < after

    def find(self, principal: Principal, key_id: str, after: int) -> tuple[Key, int, bool]:
        """One of the caller's keys, the position of that state, and whether it lacks `after`.

        Waits for the views like `reached`. A key that they don't have by then is read from the ledger.

        Raises ForbiddenError, NoSuchKeyError, UnreadableEventError.
        """
        authorize(principal, KEYS_READ)
        found, position = self.views.find(key_id)
        if position < after:
            self.reached(after)
            found, position = self.views.find(key_id)
        if found is None and position < after:
            head = self.commands.ledger.head().position
            return self.present(principal, key_id), head, head < after
        key = visible(principal, found)
        if key is None:
            raise NoSuchKeyError(key_id)
        return key, position, position < after

    def present(self, principal: Principal, key_id: str) -> Key:
        """One of the caller's keys as the ledger has it now: its row in the views, and the events after that.

        Raises ForbiddenError, NoSuchKeyError, UnreadableEventError.
        """
        self.check_known(principal, key_id)
        row, _ = self.views.find(key_id)
        if row is None or row.version > self.commands.ledger.version(subject(key_id)):
            row = None  # it isn't in the views yet, or they have more than a ledger that went backwards
        return fold(self.events(key_id, row.version if row else 0), row)

    def history(self, principal: Principal, key_id: str, after: int, limit: int) -> History:
        """Some events of one of the caller's keys, after a version, oldest first.

        Raises ForbiddenError, NoSuchKeyError, UnreadableEventError.
        """
        self.check_known(principal, key_id)
        records = self.commands.ledger.page(subject(key_id), after, limit + 1)
        return History([decode(record) for record in records[:limit]], more=len(records) > limit)

    def past(self, principal: Principal, key_id: str, moment: PointInTime) -> KeyAsOf:
        """One of the caller's keys as it was.

        Raises ForbiddenError, NoSuchKeyError, NotYetCreatedError, UnreadableEventError, and PointInTimeError
        for a point in time in the future.
        """
        self.check_known(principal, key_id)
        return past(self.events(key_id), moment, self.time_of(moment, key_id))

    def events(self, key_id: str, after: int = 0) -> Iterator[Event]:
        """All events of a key after a version, read as they are asked for. Raises UnreadableEventError."""
        return map(decode, self.commands.ledger.records(subject(key_id), after))

    def check_known(self, principal: Principal, key_id: str) -> None:
        """Raises ForbiddenError, and NoSuchKeyError, if the caller's workspace has no such key."""
        authorize(principal, KEYS_READ)
        if not self.is_in(principal.workspace, key_id):
            raise NoSuchKeyError(key_id)

    def is_in(self, workspace: str, key_id: str) -> bool:
        """Whether a workspace has a key, by its first event. Raises UnreadableEventError."""
        first = self.commands.ledger.page(subject(key_id), 0, 1) if is_key_id(key_id) else []
        return bool(first) and open_envelope(first[0]).workspace == workspace

    def time_of(self, moment: PointInTime, key_id: str) -> int:
        """When the moment was, in ms. What has an event has been, though the store's clock may be ahead.

        Raises PointInTimeError, if it is yet to come.
        """
        ledger = self.commands.ledger
        if isinstance(moment, Position):
            there = ledger.read(moment.position - 1, 1)
            if not there:
                raise PointInTimeError(
                    f"The ledger is at position {ledger.head().position}, and not yet there."
                )
            return there[0].at
        if moment.at > self.commands.now():
            newest = ledger.page(subject(key_id), max(ledger.version(subject(key_id)) - 1, 0), 1)
            if not newest or moment.at > newest[0].at:
                raise PointInTimeError("It's in the future. Use a time up to now.")
        return moment.at
