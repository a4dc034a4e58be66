"""What the API and the pages of the audit log work with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.audit.activity import Activity
from services.audit.audit_log import AuditLog
from services.audit.entries import Entry, told
from services.audit.search import Filters, Page
from shared.identity import AUDIT_READ, Principal, authorize
from shared.ledger import Ledger


@dataclass(frozen=True)
class Audit:
    """The audit log as a caller may see it: that of the own workspace."""

    log: AuditLog
    ledger: Ledger

    def page(self, principal: Principal, criteria: Mapping[str, Any], limit: int, cursor: int | None) -> Page:
        """The newest entries that match. `criteria` are the fields of Filters, without the workspace.

        Raises ForbiddenError, TooManyKeysError, AuditDatabaseError.
        """
        authorize(principal, AUDIT_READ)
        return self.log.search.page(Filters(workspace=principal.workspace, **criteria), limit, cursor)

    def activity(self, principal: Principal, criteria: Mapping[str, Any]) -> Activity | None:
        """How many entries match when; None if none does. Raises the same."""
        authorize(principal, AUDIT_READ)
        return self.log.search.activity(Filters(workspace=principal.workspace, **criteria))

    def key_names(self, principal: Principal, entries: Iterable[Entry]) -> dict[str, str]:
        """What the keys of the entries are called. Raises ForbiddenError, AuditDatabaseError."""
        authorize(principal, AUDIT_READ)
        keys = {key_id for entry in entries if (key_id := told(entry).key_id)}
        return self.log.search.key_names(principal.workspace, keys)

    def lag(self) -> int:
        """How many events are still to be appended. Raises AuditDatabaseError, redis.RedisError."""
        return max(self.ledger.head().position - self.log.last().position, 0)
