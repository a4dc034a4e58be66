"""Queries on the audit log, for the API and the pages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from services.audit.integrity.comparison import Comparison
from services.audit.log.audit_entry import AuditEntry
from services.audit.log.filters import Filters
from services.audit.log.histogram import Activity
from services.audit.log.store import AuditLog
from shared.identity import AUDIT_READ, Principal, authorize


class EntryPage(NamedTuple):
    """Some entries, newest first, and the cursor of the next page if there is one."""

    entries: list[AuditEntry]
    next_cursor: int | None


@dataclass(frozen=True)
class Audit:
    """The audit log of the caller's workspace."""

    comparison: Comparison

    @property
    def log(self) -> AuditLog:
        return self.comparison.log

    def page(
        self, principal: Principal, criteria: Mapping[str, Any], limit: int, cursor: int | None
    ) -> EntryPage:
        """The newest matches, each compared with the ledger. Raises an alarm if one is missing.

        `criteria` are the fields of Filters, without the workspace.
        Raises ForbiddenError, TooManyKeysError, AuditDatabaseError, redis.RedisError.
        """
        authorize(principal, AUDIT_READ)
        found = self.log.search.page(Filters(workspace=principal.workspace, **criteria), limit, cursor)
        if found.missing:
            self.comparison.report_missing(found.missing[0])
        return EntryPage(self.comparison.compared(found.entries), found.next_cursor)

    def activity(self, principal: Principal, criteria: Mapping[str, Any]) -> Activity | None:
        """A histogram of the matches, or None if there are none. Raises the same."""
        authorize(principal, AUDIT_READ)
        return self.log.search.activity(Filters(workspace=principal.workspace, **criteria))

    def key_names(self, principal: Principal, entries: Iterable[AuditEntry]) -> dict[str, str]:
        """The names of the entries' keys, by key ID. Raises ForbiddenError, AuditDatabaseError."""
        authorize(principal, AUDIT_READ)
        keys = {key_id for entry in entries if (key_id := entry.event.key_id)}
        return self.log.search.key_names(principal.workspace, keys)

    def lag(self) -> int:
        """The number of events that aren't in the log or its index yet.

        Raises AuditDatabaseError, redis.RedisError.
        """
        return max(self.comparison.ledger.head().position - self.log.search.indexed(), 0)
