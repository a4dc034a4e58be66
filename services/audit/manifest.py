"""What the processes are made of that have to do with the audit log."""

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
from shared.components import StoreComponents, now_ms
from shared.store.embedded import make_data_directory


class AuditComponents(StoreComponents):
    """The audit log, and what writes, signs and exports it."""

    @property
    def audit_database_url(self) -> str | URL:
        """Where the audit log lies: in a file of the data directory, unless that is set."""
        file = str(self.settings.data_dir / "audit.db")
        return self.settings.audit_database_url or URL.create("sqlite", database=file)

    @property
    def audit_key_file(self) -> Path:
        """Where the key is that signs for it."""
        return self.settings.audit_key_file or self.settings.data_dir / "audit_key.pem"

    @cached_property
    def audit_log(self) -> AuditLog:
        """The audit log."""
        if not self.settings.audit_database_url:
            make_data_directory(self.settings.data_dir)
        return AuditLog(self.audit_database_url)

    @cached_property
    def signer(self) -> Signer:
        """What signs for the audit log."""
        if self.settings.audit_key_file is None:
            make_data_directory(self.settings.data_dir)
        return Signer(self.audit_key_file)

    @cached_property
    def notary(self) -> Notary:
        """What adds checkpoints to the audit log."""
        return Notary(self.comparison, self.signer, now_ms)

    @cached_property
    def alarms(self) -> Alarms:
        """What raises alarms about the audit log."""
        return Alarms(self.store, self.audit_log, now_ms)

    @cached_property
    def comparison(self) -> Comparison:
        """What compares entries with the ledger."""
        return Comparison(self.audit_log, self.ledger, self.alarms)

    @cached_property
    def standing(self) -> AuditStatus:
        """What tells how the audit log stands."""
        return AuditStatus(self.comparison, self.signer, Failures(self.store), now_ms)

    @cached_property
    def exports(self) -> Exports:
        """What exports entries of the audit log."""
        limit = ExportLimit(self.store)
        return Exports(self.comparison, self.journal, self.signer, self.notary, limit, now_ms)

    @cached_property
    def relay(self) -> Relay:
        """What tells the audit worker of new events."""
        return Relay(self.tailed_ledger, self.audit_log, Requests(self.store), now_ms)
