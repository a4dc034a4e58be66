"""All parts together, for the processes that serve every service at once: the web, and `up`."""

from functools import cached_property

from services.parts.accounts import AccountParts
from services.parts.audit import AuditParts
from services.parts.keys import KeyParts
from shared.web.limits import Limits


class Parts(KeyParts, AccountParts, AuditParts):
    """What the processes are made of, on one store. Nothing connects before it is used."""

    @cached_property
    def limits(self) -> Limits:
        """How often each caller of this process may call."""
        return Limits(self.settings.rate_limit)
