"""What the API and the pages of keys work with."""

from dataclasses import dataclass

from services.keys.commands import KeyCommands, NoSuchKeyError
from services.keys.domain import Key
from services.keys.views import Page, Views
from shared.identity import KEYS_READ, Principal, authorize, visible


@dataclass(frozen=True)
class Keys:
    """Commands to change keys, and views to read them."""

    commands: KeyCommands
    views: Views

    def page(self, principal: Principal, limit: int, before: int | None) -> Page:
        """Some of the caller's keys, newest first. Raises ForbiddenError."""
        authorize(principal, KEYS_READ)
        return self.views.page(principal.workspace, limit, before)

    def find(self, principal: Principal, key_id: str) -> Key:
        """One of the caller's keys. Raises ForbiddenError, NoSuchKeyError."""
        authorize(principal, KEYS_READ)
        key = visible(principal, self.views.find(key_id))
        if key is None:
            raise NoSuchKeyError(key_id)
        return key
