"""The audit log as checks see it: read only, and nothing is created."""

from contextlib import suppress
from functools import cached_property
from pathlib import Path

from sqlalchemy import inspect, make_url
from sqlalchemy.exc import ArgumentError

from services.audit.components import AuditComponents
from services.audit.ingest.failures import Failures
from services.audit.integrity.alarms import Alarms
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.signer import Signer
from services.audit.log.database import AuditDatabaseError, Database
from services.audit.log.schema import ENTRIES
from services.audit.log.store import AuditLog
from services.audit.status import AuditStatus
from shared.clock import now_ms
from shared.service.checks import Finding, SkippedError, ok, problem
from shared.service.installation import Installation
from shared.store.connections import StoreError


class AuditInspection:
    """The audit log of an installation. What isn't there raises SkippedError."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._components = AuditComponents(installation.shared)
        self._process = installation.process.of(AuditComponents) if installation.process else None

    @cached_property
    def key_file(self) -> Path:
        return self._components.key_file

    @cached_property
    def signer(self) -> Signer:
        """The signer. It creates a missing key when it signs: look for the file first."""
        return Signer(self.key_file)

    @cached_property
    def database_file(self) -> Path | None:
        """The SQLite file of the audit log, or None if it is on a server."""
        with suppress(ArgumentError, ValueError):
            url = make_url(self._components.database_url)
            if url.get_backend_name() == "sqlite":
                return Path(url.database or "")
        return None

    @cached_property
    def log(self) -> AuditLog:
        if self.database_problem:
            raise SkippedError("the audit log is unavailable")
        if self._process:
            return self._process.log
        log = AuditLog(self._components.database_url, read_only=True)
        self._installation.closing.callback(log.close)
        return log

    @property
    def database(self) -> Database:
        return self.log.database

    @cached_property
    def alarms(self) -> Alarms:
        return Alarms(self._installation.store, self.log, now_ms)

    @cached_property
    def status(self) -> AuditStatus:
        comparison = Comparison(self.log, self._installation.shared.ledger, self.alarms)
        return AuditStatus(comparison, self.signer, Failures(self._installation.store), now_ms)

    @cached_property
    def database_problem(self) -> Finding | None:
        """Why the database can't be used, or None. It is tried once for all checks."""
        if self._process:
            try:
                self._process.log.last()
            except (AuditDatabaseError, StoreError, OSError) as error:
                return problem(str(error), "Start it, or correct KEYLEDGER_AUDIT_DATABASE_URL.")
            return None
        file = self.database_file
        try:
            database = Database(self._components.database_url, read_only=True)
        except AuditDatabaseError as error:
            return problem(str(error), "Correct it.")
        self._installation.closing.callback(database.close)
        try:
            if file and not file.exists():
                return ok(f"{file} doesn't exist yet; the audit worker creates it")
            is_set_up = database.read(lambda connection: inspect(connection).has_table(ENTRIES.name))
        except (AuditDatabaseError, OSError) as error:
            what = "Check whether this user may read it, and what it is" if file else "Start it"
            return problem(str(error), f"{what}, or correct KEYLEDGER_AUDIT_DATABASE_URL.")
        return None if is_set_up else ok("it isn't set up yet; the audit worker does that")
