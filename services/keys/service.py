"""What the API and the pages of keys work with."""

import time
from dataclasses import dataclass

from services.keys.commands import KeyCommands, NoSuchKeyError
from services.keys.criteria import ALL, Criteria
from services.keys.domain import Key
from services.keys.listing import Page
from services.keys.moments import Past, past
from services.keys.views import Views
from shared.identity import KEYS_READ, Principal, authorize, visible
from shared.moments import Moment, MomentError, Position


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
        """Waits until the views have a position, 2 s at most: where they are, and whether they lack it.

        What no event has come to yet is not waited for.
        """
        position = self.views.live().checkpoint().position
        if position < after:
            self.views.wait_for(min(after, self.commands.ledger.head().position))
            position = self.views.live().checkpoint().position
        return position, position < after

    def find(self, principal: Principal, key_id: str, after: int) -> tuple[Key, int, bool]:
        """One of the caller's keys, as `reached` has it. Raises ForbiddenError, NoSuchKeyError."""
        authorize(principal, KEYS_READ)
        found, position = self.views.find(key_id)
        if position < after:
            self.reached(after)
            found, position = self.views.find(key_id)
        key = visible(principal, found)
        if key is None:
            raise NoSuchKeyError(key_id)
        return key, position, position < after

    def past(self, principal: Principal, key_id: str, moment: Moment) -> Past:
        """One of the caller's keys as it was.

        Raises ForbiddenError, NoSuchKeyError, NotYetCreatedError; MomentError, if the moment is yet to come.
        """
        history = self.commands.history(principal, key_id)
        return past(history, moment, self.time_of(moment, history[-1].at))

    def time_of(self, moment: Moment, latest: int) -> int:
        """When the moment was, in ms. What has an event has been, though the store's clock may be ahead.

        `latest` is the time of the last event that is known. Raises MomentError, if it is yet to come.
        """
        if isinstance(moment, Position):
            ledger = self.commands.ledger
            there = ledger.read(moment.position - 1, 1)
            if not there:
                raise MomentError(f"The ledger is at position {ledger.head().position}, and not yet there.")
            return there[0].at
        if moment.at > max(latest, time.time_ns() // 1_000_000):
            raise MomentError("It is in the future: it must be a time that has come.")
        return moment.at
