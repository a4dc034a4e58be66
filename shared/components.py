"""What processes are made of: here what all need, and a module for the parts of each service.

A process builds those that it uses, and imports no others: a worker of the audit log needs no web, and a
projector no database.
"""

import time
import uuid
from dataclasses import dataclass
from functools import cached_property

from redis import Redis

from shared.eventstore.journal import Journal
from shared.eventstore.ledger import Ledger
from shared.settings import Settings
from shared.store.connections import connect
from shared.store.reserve import Reserve

_BLOCKING_READ_S = 5.0


def now_ms() -> int:
    """The present time in ms since 1970."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """A name for an event or a request."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class StoreComponents:
    """The store and what lies in it, for all services. Nothing connects before it is used."""

    settings: Settings
    store_url: str

    @cached_property
    def store(self) -> Redis:
        """A client whose answers come soon enough for a request to be refused within 2 s, or not at all."""
        return connect(self.store_url, allow_unsafe=self.settings.allow_unsafe_store)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, to append and to read."""
        return Ledger(
            self.store,
            self.settings.ack_replicas,
            secret_key=self.settings.secret_key or "",
            reserve=Reserve(self.store),
        )

    @cached_property
    def waiting_store(self) -> Redis:
        """A client for reads that wait for what comes."""
        unsafe = self.settings.allow_unsafe_store
        return connect(self.store_url, allow_unsafe=unsafe, timeout=_BLOCKING_READ_S)

    @cached_property
    def tailed_ledger(self) -> Ledger:
        """The ledger, to be tailed."""
        return Ledger(self.waiting_store)

    @cached_property
    def journal(self) -> Journal:
        """What tells of people apart from their accounts."""
        return Journal(self.ledger, new_id)
