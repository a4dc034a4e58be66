"""All parts together, for the processes that serve every service at once: the web, and `up`."""

from functools import cached_property

from services.accounts.manifest import AccountComponents
from services.audit.manifest import AuditComponents
from services.keys.manifest import KeyComponents
from shared.web.server.limits import Limits


class Container(KeyComponents, AccountComponents, AuditComponents):
    """What the processes are made of, on one store. Nothing connects before it is used."""

    @cached_property
    def limits(self) -> Limits:
        """How often each caller of this process may call."""
        return Limits(self.settings.rate_limit)
