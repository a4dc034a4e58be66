"""The components of the audit service."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import URL

from services.audit.export.limit import ExportLimit
from services.audit.export.service import Exports
from services.audit.ingest.failures import Failures
from services.audit.ingest.job import Requests
from services.audit.ingest.relay import Relay
from services.audit.integrity.alarms import Alarms
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.notary import Notary
from services.audit.integrity.signer import Signer
from services.audit.log.store import AuditLog
from services.audit.status import AuditStatus
from shared.clock import now_ms
from shared.service.components import SharedComponents
from shared.store.embedded import make_data_directory


@dataclass(frozen=True)
class AuditComponents:
    """The audit log, and what writes, signs and exports it."""

    shared: SharedComponents

    @property
    def database_url(self) -> str | URL:
        """The audit log's database: by default a file in the data directory."""
        settings = self.shared.settings
        return settings.audit_database_url or URL.create(
            "sqlite", database=str(settings.data_dir / "audit.db")
        )

    @property
    def key_file(self) -> Path:
        """The private key that signs checkpoints: by default a file in the data directory."""
        return self.shared.settings.audit_key_file or self.shared.settings.data_dir / "audit_key.pem"

    @cached_property
    def log(self) -> AuditLog:
        """The audit log. Its data directory is created if it doesn't exist."""
        if not self.shared.settings.audit_database_url:
            make_data_directory(self.shared.settings.data_dir)
        return AuditLog(self.database_url)

    @cached_property
    def signer(self) -> Signer:
        """The signer. The data directory is created if it doesn't exist."""
        if self.shared.settings.audit_key_file is None:
            make_data_directory(self.shared.settings.data_dir)
        return Signer(self.key_file)

    @cached_property
    def notary(self) -> Notary:
        return Notary(self.comparison, self.signer, now_ms)

    @cached_property
    def alarms(self) -> Alarms:
        return Alarms(self.shared.store, self.log, now_ms)

    @cached_property
    def comparison(self) -> Comparison:
        return Comparison(self.log, self.shared.ledger, self.alarms)

    @cached_property
    def status(self) -> AuditStatus:
        return AuditStatus(self.comparison, self.signer, Failures(self.shared.store), now_ms)

    @cached_property
    def exports(self) -> Exports:
        limit = ExportLimit(self.shared.store)
        return Exports(self.comparison, self.shared.journal, self.signer, self.notary, limit, now_ms)

    @cached_property
    def relay(self) -> Relay:
        return Relay(self.shared.tailed_ledger, self.log, Requests(self.shared.store), now_ms)
