"""What is examined: the parts of one Keyledger, of which none makes, starts or changes anything."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from redis import Redis
from sqlalchemy import inspect, make_url
from sqlalchemy.exc import ArgumentError

from services.audit.integrity.signer import Signer
from services.audit.log.database import ENTRIES, AuditDatabaseError, Database
from services.audit.log.store import AuditLog
from services.audit.manifest import AuditComponents
from services.doctor.findings import Finding, Level, SkippedError, ok, problem, skipped
from services.keys.manifest import KeyComponents
from services.keys.verification.invalidation import CacheInvalidator
from services.runtime.components import Container
from shared.settings import Settings
from shared.store.connections import StoreError, UnsafeStoreError, connect, ensure_reachable, unchecked_client
from shared.store.embedded import EmbeddedServer

_ANSWER_S = 1.5
_START_S = 2.0  # that an embedded store is given, which may be about to start
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Installation(KeyComponents, AuditComponents):
    """The same parts, to look at. One that is not there raises SkippedError where it is asked for."""

    unusable: Sequence[Finding] = ()  # what is wrong with those settings that could not be read

    @cached_property
    def embedded(self) -> EmbeddedServer | None:
        """The server of the data directory, if that is the store."""
        server = EmbeddedServer.found_in(self.settings.data_dir)
        return server if self.settings.redis_url in {None, server.url} else None

    @cached_property
    def store(self) -> Redis:
        """A client of the store, also of one that could lose events."""
        if self.store_away:
            raise SkippedError("the store cannot be asked")
        return unchecked_client(self.store_url, _ANSWER_S)

    @cached_property
    def store_away(self) -> Finding | None:
        """What is to be said of a store that cannot be asked; it is tried once for all checks."""
        deadline = time.monotonic() + (_START_S if self.embedded else 0)
        while (away := self._try_store()) and away.level is Level.PROBLEM and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        return away

    @cached_property
    def audit_log(self) -> AuditLog:
        """The audit log, to read."""
        self._need_database()
        return AuditLog(self.audit_database_url, read_only=True)

    @cached_property
    def database(self) -> Database:
        """Its database, to read."""
        self._need_database()
        return self._reader

    @cached_property
    def database_away(self) -> Finding | None:
        """What is to be said of a database that cannot be asked; it is tried once for all checks."""
        try:
            database = self._reader
        except AuditDatabaseError as error:
            return problem(str(error), "Correct it.")
        file = self.database_file
        try:
            if file and not file.exists():
                return ok(f"{file} is not there yet; the audit worker makes it")
            is_set_up = database.read(lambda connection: inspect(connection).has_table(ENTRIES.name))
        except (AuditDatabaseError, OSError) as error:
            what = "See whether this user may read it, and what it is" if file else "Start it"
            return problem(str(error), f"{what}, or correct KEYLEDGER_AUDIT_DATABASE_URL.")
        return None if is_set_up else ok("nothing is in it yet; the audit worker sets it up")

    @property
    def database_file(self) -> Path | None:
        """Where the audit log is, if that is a file."""
        with suppress(ArgumentError, ValueError):
            url = make_url(self.audit_database_url)
            if url.get_backend_name() == "sqlite":
                return Path(url.database or "")
        return None

    @cached_property
    def signer(self) -> Signer:
        """What signs for the audit log. It makes a key that is missing: look for the file first."""
        return Signer(self.audit_key_file)

    def close(self) -> None:
        """Closes the connections."""
        for part in ("store", "audit_log", "_reader"):
            if part in vars(self):
                vars(self)[part].close()

    def _try_store(self) -> Finding | None:
        try:
            if self.embedded and not self.embedded.is_taken():
                return skipped("not running; `keyledger up` starts it")
            with suppress(UnsafeStoreError), connect(self.store_url) as client:
                ensure_reachable(client)  # whether it could lose events another check tells
        except StoreError as error:
            return self._away(error)
        return None

    def _away(self, error: StoreError) -> Finding:
        found, _, advice = str(error).rpartition(": ")
        if self.embedded and "KEYLEDGER_REDIS_URL" in advice:
            advice = "see what `keyledger up` prints of it, and whether the disk is full."
        return problem(found, advice[0].upper() + advice[1:])

    @cached_property
    def _reader(self) -> Database:
        return Database(self.audit_database_url, read_only=True)

    def _need_database(self) -> None:
        if self.database_away:
            raise SkippedError("there is no audit log that could be asked")


@dataclass(frozen=True)
class RunningInstallation(Installation):
    """The same as a running process has it, by its own connections: to be made for each look."""

    components: Container = field(kw_only=True)

    @cached_property
    def store(self) -> Redis:
        """The process's own client."""
        if self.store_away:
            raise SkippedError("the store cannot be asked")
        return self.components.store

    @cached_property
    def store_away(self) -> Finding | None:
        """What is to be said of a store that cannot be asked, or could lose events."""
        try:
            ensure_reachable(self.components.store)
        except StoreError as error:
            return self._away(error)
        return None

    @cached_property
    def tail(self) -> CacheInvalidator:
        """What the process follows the ledger with."""
        return self.components.tail

    @cached_property
    def audit_log(self) -> AuditLog:
        """The process's own."""
        self._need_database()
        return self.components.audit_log

    @cached_property
    def database(self) -> Database:
        """Its database."""
        return self.audit_log.database

    @cached_property
    def database_away(self) -> Finding | None:
        """What is to be said of a database that cannot be asked."""
        try:
            self.components.audit_log.last()
        except (AuditDatabaseError, StoreError, OSError) as error:
            return problem(str(error), "Start it, or correct KEYLEDGER_AUDIT_DATABASE_URL.")
        return None


@contextmanager
def visited(settings: Settings, unusable: Sequence[Finding] = ()) -> Iterator[Installation]:
    """What the settings name; an embedded store that runs is not stopped meanwhile."""
    server = EmbeddedServer.found_in(settings.data_dir)
    joined = server.used() if not settings.redis_url and _runs(server) else nullcontext()
    with joined, closing(Installation(settings, settings.redis_url or server.url, unusable)) as installation:
        yield installation


def _runs(server: EmbeddedServer) -> bool:
    with suppress(StoreError):  # the check of the store tells of it
        return server.is_taken()
    return False
