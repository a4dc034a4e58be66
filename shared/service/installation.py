"""What checks examine: one installation, of which nothing is created, started or changed."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from redis import Redis

from shared.service.checks import Finding, Level, SkippedError, problem, skipped
from shared.service.components import Container, SharedComponents
from shared.settings import Settings
from shared.store.connections import StoreError, UnsafeStoreError, connect, ensure_reachable, unchecked_client
from shared.store.embedded import EmbeddedServer

_ANSWER_S = 1.5
_START_S = 2.0  # for an embedded store that may be starting
_PAUSE_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Installation:
    """The settings, the store, and what else a service examines of its own.

    What isn't there raises SkippedError where a check asks for it. With `process`, the components of a
    running process, its own connections are used: make an installation for each look.
    """

    settings: Settings
    store_url: str
    unusable: Sequence[Finding] = ()  # the settings that can't be read
    process: Container | None = None
    closing: ExitStack = field(default_factory=ExitStack)
    _views: dict[Callable[..., Any], Any] = field(default_factory=dict)

    def of(self, kind: "Callable[[Installation], T]") -> T:
        """Returns what a service examines, built by this class, the same object for all checks."""
        if kind not in self._views:
            self._views[kind] = kind(self)
        view: T = self._views[kind]
        return view

    @cached_property
    def shared(self) -> SharedComponents:
        """The store, also one that could lose events, and the ledger."""
        return SharedComponents(self.settings, self.store_url, client=self._client)

    @property
    def store(self) -> Redis:
        """The store. Raises SkippedError."""
        return self.shared.store

    @cached_property
    def embedded(self) -> EmbeddedServer | None:
        """The server of the data directory, if that is the store."""
        server = EmbeddedServer.found_in(self.settings.data_dir)
        return server if self.settings.redis_url in {None, server.url} else None

    @cached_property
    def store_away(self) -> Finding | None:
        """What is wrong with a store that can't be asked; it is tried once for all checks."""
        if self.process:
            try:
                ensure_reachable(self.process.shared.store)
            except StoreError as error:
                return self._away(error)
            return None
        deadline = time.monotonic() + (_START_S if self.embedded else 0)
        while (away := self._try_store()) and away.level is Level.PROBLEM and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        return away

    def _client(self) -> Redis:
        if self.store_away:
            raise SkippedError("the store is unavailable")
        if self.process:
            return self.process.shared.store
        client = unchecked_client(self.store_url, _ANSWER_S)
        self.closing.callback(client.close)
        return client

    def _try_store(self) -> Finding | None:
        try:
            if self.embedded and not self.embedded.is_taken():
                return skipped("not running; `keyledger up` starts it")
            with suppress(UnsafeStoreError), connect(self.store_url) as client:
                ensure_reachable(client)  # another check reports whether it could lose events
        except StoreError as error:
            return self._away(error)
        return None

    def _away(self, error: StoreError) -> Finding:
        found, _, advice = str(error).rpartition(": ")
        if self.embedded and "KEYLEDGER_REDIS_URL" in advice:
            advice = "see what `keyledger up` prints, and whether the disk is full."
        return problem(found, advice[0].upper() + advice[1:])


@contextmanager
def examined(settings: Settings, unusable: Sequence[Finding] = ()) -> Iterator[Installation]:
    """The installation that the settings name; a running embedded store isn't stopped meanwhile."""
    server = EmbeddedServer.found_in(settings.data_dir)
    joined = server.used() if not settings.redis_url and _runs(server) else nullcontext()
    with joined:
        installation = Installation(settings, settings.redis_url or server.url, unusable)
        with installation.closing:
            yield installation


def _runs(server: EmbeddedServer) -> bool:
    with suppress(StoreError):  # the check of the store reports it
        return server.is_taken()
    return False
