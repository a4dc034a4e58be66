"""What the processes are made of that have to do with keys."""

import secrets
from functools import cached_property

from services.keys.commands import KeyCommands
from services.keys.currency import Tail
from services.keys.inquiries import LedgerInquiries
from services.keys.projector import Projector
from services.keys.service import Keys
from services.keys.standings import Memory
from services.keys.usage import Usage
from services.keys.verification import KeyAuthenticator, Verifier
from services.keys.verify_calls import VerdictCalls
from services.keys.views import Views
from services.parts import StoreParts, new_id, now_ms
from shared.connections import connect
from shared.ledger import Ledger

# Longer than the tail waits for news, and short enough to notice a connection that is dead.
_TAIL_READ_S = 1.0


class KeyParts(StoreParts):
    """Commands on keys, their views, and verdicts."""

    @cached_property
    def views(self) -> Views:
        """The read models of keys."""
        return Views(self.store)

    @cached_property
    def keys(self) -> Keys:
        """Commands on keys, and their views."""
        commands = KeyCommands(self.ledger, self.settings.key_prefix, secrets.randbelow, new_id, now_ms)
        return Keys(commands, self.views)

    @cached_property
    def memory(self) -> Memory:
        """What this process remembers of the keys that it was asked about."""
        return Memory(self.settings.verifier_keys)

    @cached_property
    def tail(self) -> Tail:
        """What keeps that current."""
        unsafe = self.settings.allow_unsafe_store
        store = connect(self.store_url, allow_unsafe=unsafe, timeout=_TAIL_READ_S)
        return Tail(Ledger(store), self.memory)

    @cached_property
    def usage(self) -> Usage:
        """How often and when keys were used."""
        return Usage(self.store)

    @cached_property
    def verifier(self) -> Verifier:
        """What gives the verdict on a key."""
        return Verifier(self.ledger, self.memory, self.tail, now_ms, self.usage.note)

    @cached_property
    def authenticator(self) -> KeyAuthenticator:
        """What tells who presents a key."""
        return KeyAuthenticator(self.verifier)

    @cached_property
    def verdicts(self) -> VerdictCalls:
        """The calls that other services make on every request."""
        return VerdictCalls(self.verifier, self.authenticator)

    @cached_property
    def projector(self) -> Projector:
        """What builds the views."""
        return Projector(self.tailed_ledger, self.views)

    @cached_property
    def inquiries(self) -> LedgerInquiries:
        """What answers the audit service about keys."""
        return LedgerInquiries(self.keys, self.usage)
