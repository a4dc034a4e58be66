"""The objects that the key service is built from."""

import secrets
from dataclasses import dataclass
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
from shared.clock import now_ms
from shared.eventstore.ledger import Ledger
from shared.service.components import SharedComponents, new_id

# Longer than the invalidator's blocking read, and short enough to notice a dead connection.
_FOLLOW_READ_S = 1.0


@dataclass(frozen=True)
class KeyComponents:
    """Commands on keys, the read models, and verification."""

    shared: SharedComponents

    @cached_property
    def views(self) -> Views:
        return Views(self.shared.store)

    @cached_property
    def keys(self) -> Keys:
        ledger, prefix = self.shared.ledger, self.shared.settings.key_prefix
        commands = KeyCommands(ledger, prefix, secrets.randbelow, new_id, now_ms, log=self.shared.command_log)
        return Keys(commands, self.views)

    @cached_property
    def cache(self) -> KeyCache:
        return KeyCache(self.shared.settings.verifier_keys)

    @cached_property
    def invalidator(self) -> CacheInvalidator:
        return CacheInvalidator(Ledger(self.shared.connection(_FOLLOW_READ_S)), self.cache)

    @cached_property
    def usage(self) -> Usage:
        return Usage(self.shared.store)

    @cached_property
    def verifier(self) -> Verifier:
        return Verifier(self.shared.ledger, self.cache, self.invalidator, now_ms, self.usage.note)

    @cached_property
    def authenticator(self) -> KeyAuthenticator:
        return KeyAuthenticator(self.verifier)

    @cached_property
    def projector(self) -> Projector:
        return Projector(self.shared.tailed_ledger, self.views)

    @cached_property
    def forensics(self) -> LedgerForensics:
        return LedgerForensics(self.keys, self.usage)
