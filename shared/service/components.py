"""The objects that a process is built from: those that all services share, and one class per service.

A process imports and builds only what it uses: an audit worker needs no web framework, and a projector no
SQL database. Nothing connects before it is used.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from redis import Redis

from shared.eventstore.command_handler import Journal
from shared.eventstore.ledger import Ledger
from shared.process.command_log import CommandLog
from shared.settings import Settings
from shared.store.connections import connect
from shared.store.reserve import Reserve

_ANSWER_S = 1.5
_BLOCKING_READ_S = 5.0

C = TypeVar("C")


def new_id() -> str:
    """Returns a unique ID for an event or a request."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class SharedComponents:
    """The store and the ledger.

    `client`, if set, opens the store in place of the usual client, for an examination that must not fail
    where the store is missing or unsafe.
    """

    settings: Settings
    store_url: str
    client: Callable[[], Redis] | None = None

    @cached_property
    def store(self) -> Redis:
        """A client that answers or fails soon enough for a request to be refused within 2 s."""
        return self.client() if self.client else self.connection(_ANSWER_S)

    def connection(self, timeout: float) -> Redis:
        """Returns a new client that waits up to `timeout` seconds for an answer."""
        return connect(self.store_url, allow_unsafe=self.settings.allow_unsafe_store, timeout=timeout)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, for appends and short reads."""
        return Ledger(
            self.store,
            self.settings.ack_replicas,
            secret_key=self.settings.secret_key or "",
            reserve=Reserve(self.store),
        )

    @cached_property
    def waiting_store(self) -> Redis:
        """A client for blocking reads."""
        return self.connection(_BLOCKING_READ_S)

    @cached_property
    def tailed_ledger(self) -> Ledger:
        """The ledger, for blocking reads."""
        return Ledger(self.waiting_store)

    @cached_property
    def journal(self) -> Journal:
        """Appends security events that belong to no account."""
        return Journal(self.ledger, new_id)

    @cached_property
    def command_log(self) -> CommandLog:
        """Logs and observes the commands of this process."""
        return CommandLog()


@dataclass(frozen=True)
class Container:
    """The components of all services on one store, each service's built when it is first asked for."""

    shared: SharedComponents
    _built: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)

    def of(self, kind: Callable[[SharedComponents], C]) -> C:
        """Returns the components that this class builds, the same object each time."""
        if kind not in self._built:
            # Of two threads that build at once, both get the object that was stored first.
            self._built.setdefault(kind, kind(self.shared))
        built: C = self._built[kind]
        return built
