"""Forensics: whether a key would have been accepted at a point in time, and whose a leaked key is."""

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
    """The key of a leaked secret, its use, and the entries that it caused, newest first."""

    key: FoundKey
    use: KeyUse
    entries: list[AuditEntry]
    next_cursor: int | None  # of the entries that the key caused


@dataclass(frozen=True)
class Forensics:
    """Answers questions about keys, from the ledger and the audit log."""

    keys: KeyForensics
    comparison: Comparison

    def verdict(
        self, principal: Principal, key_id: str, at: PointInTime, scopes: Sequence[str] = ()
    ) -> PastVerdict:
        """Whether a key of the caller's workspace would have been accepted at a point in time.

        Raises ForbiddenError, NoSuchKeyError, PointInTimeError, UnreadableEventError, redis.RedisError.
        """
        authorize(principal, AUDIT_READ)
        verdict = self.keys.verdict_at(principal.workspace, key_id, at, scopes)
        if verdict is None:
            raise NoSuchKeyError
        return verdict

    def look_up(self, principal: Principal, token: str) -> LeakLookup:
        """Finds the key of a leaked secret in the caller's workspace. It is neither stored nor logged.

        Raises ForbiddenError, NoSuchKeyError, NotAKeyError, UnreadableEventError, AuditDatabaseError,
        redis.RedisError.
        """
        authorize(principal, AUDIT_READ)
        key = self.keys.find(principal.workspace, token)
        if key is None:
            raise NoSuchKeyError
        filters = Filters(workspace=principal.workspace, actor=key.id)
        page = self.comparison.log.search.page(filters, _ENTRIES_SHOWN)
        # The filter matches labels too, so another actor's label may be this key's ID.
        entries = self.comparison.compared(page.entries)
        own = [
            each for each in entries if (each.event.actor["kind"], each.event.actor["id"]) == ("key", key.id)
        ]
        return LeakLookup(key, self.keys.use(key.id), own, page.next_cursor)
