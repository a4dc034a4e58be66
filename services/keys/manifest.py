"""What the processes are made of that have to do with keys."""

import secrets
from functools import cached_property

from services.keys.commands import KeyCommands
from services.keys.forensics import LedgerForensics
from services.keys.queries import Keys
from services.keys.read_model.generations import Views
from services.keys.read_model.projector import Projector
from services.keys.verification.cache import KeyCache
from services.keys.verification.invalidation import CacheInvalidator
from services.keys.verification.usage import Usage
from services.keys.verification.verifier import KeyAuthenticator, Verifier
from services.keys.web.fast_path import VerdictEndpoints
from shared.components import StoreComponents, new_id, now_ms
from shared.eventstore.ledger import Ledger
from shared.store.connections import connect

# Longer than the tail waits for news, and short enough to notice a connection that is dead.
_TAIL_READ_S = 1.0


class KeyComponents(StoreComponents):
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
    def memory(self) -> KeyCache:
        """What this process remembers of the keys that it was asked about."""
        return KeyCache(self.settings.verifier_keys)

    @cached_property
    def tail(self) -> CacheInvalidator:
        """What keeps that current."""
        unsafe = self.settings.allow_unsafe_store
        store = connect(self.store_url, allow_unsafe=unsafe, timeout=_TAIL_READ_S)
        return CacheInvalidator(Ledger(store), self.memory)

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
    def verdicts(self) -> VerdictEndpoints:
        """The calls that other services make on every request."""
        return VerdictEndpoints(self.verifier, self.authenticator)

    @cached_property
    def projector(self) -> Projector:
        """What builds the views."""
        return Projector(self.tailed_ledger, self.views)

    @cached_property
    def inquiries(self) -> LedgerForensics:
        """What answers the audit service about keys."""
        return LedgerForensics(self.keys, self.usage)
