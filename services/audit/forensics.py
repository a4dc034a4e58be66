"""What people ask when a key is in question: was it good then, and whose is this one."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.audit.integrity.comparison import Comparison
from services.audit.log.audit_entry import AuditEntry
from services.audit.log.filters import Filters
from shared.eventstore.point_in_time import PointInTime
from shared.forensics import FoundKey, KeyForensics, KeyUse, PastVerdict
from shared.identity import AUDIT_READ, Principal, authorize

_ENTRIES_SHOWN = 50


class NoSuchKeyError(Exception):
    """There is no such key in the caller's workspace."""


@dataclass(frozen=True)
class LeakLookup:
    """What is known of a token: whose it is, how that key was used, and what it did, newest first."""

    key: FoundKey
    use: KeyUse
    entries: list[AuditEntry]
    next_cursor: int | None  # of the entries whose actor is the key


@dataclass(frozen=True)
class Forensics:
    """Asks those who know the keys, and the audit log."""

    keys: KeyForensics
    comparison: Comparison

    def verdict(
        self, principal: Principal, key_id: str, at: PointInTime, scopes: Sequence[str] = ()
    ) -> PastVerdict:
        """Whether a key of the caller's workspace would have been accepted then.

        Raises ForbiddenError, NoSuchKeyError, PointInTimeError, UnreadableEventError, redis.RedisError.
        """
        authorize(principal, AUDIT_READ)
        verdict = self.keys.verdict_at(principal.workspace, key_id, at, scopes)
        if verdict is None:
            raise NoSuchKeyError
        return verdict

    def look_up(self, principal: Principal, token: str) -> LeakLookup:
        """Whose the token is, in the caller's workspace. It is neither stored nor logged.

        Raises ForbiddenError, NoSuchKeyError, NotAKeyError, UnreadableEventError, AuditDatabaseError,
        redis.RedisError.
        """
        authorize(principal, AUDIT_READ)
        key = self.keys.find(principal.workspace, token)
        if key is None:
            raise NoSuchKeyError
        filters = Filters(workspace=principal.workspace, actor=key.id)
        page = self.comparison.log.search.page(filters, _ENTRIES_SHOWN)
        # An actor is found by its label too, and another may be called like this key's id.
        entries = self.comparison.compared(page.entries)
        own = [
            each for each in entries if (each.event.actor["kind"], each.event.actor["id"]) == ("key", key.id)
        ]
        return LeakLookup(key, self.keys.use(key.id), own, page.next_cursor)
