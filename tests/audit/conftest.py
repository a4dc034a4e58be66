"""A database of each kind for the audit log, empty for each test."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from redis import Redis

from services.audit.export.limit import ExportLimit
from services.audit.export.service import Exports
from services.audit.ingest.failures import Failures
from services.audit.integrity.alarms import Alarms
from services.audit.integrity.comparison import Comparison
from services.audit.integrity.notary import Notary
from services.audit.integrity.signer import Signer
from services.audit.log.store import AuditLog
from services.audit.status import AuditStatus
from shared.clock import now_ms
from shared.eventstore.command_handler import Journal
from shared.eventstore.ledger import Ledger
from tests.audit.histories import AT, notary_of
from tests.audit.tampering import Tampered


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return f"sqlite:///{tmp_path / 'audit.db'}"


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """A database, emptied."""
    url = f"postgresql://keyledger@/postgres?host={postgresql_server}"
    server = Tampered(url)
    server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    server.close()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each kind of database, empty."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def log(database_url: str) -> Iterator[AuditLog]:
    """An audit log on each kind of database."""
    audit_log = AuditLog(database_url)
    yield audit_log
    audit_log.close()


@pytest.fixture
def sqlite_log(sqlite_url: str) -> Iterator[AuditLog]:
    """An audit log in a file, for what does not depend on the database."""
    audit_log = AuditLog(sqlite_url)
    yield audit_log
    audit_log.close()


@pytest.fixture
def tampered(database_url: str) -> Iterator[Tampered]:
    """The way into the database of `log`."""
    way = Tampered(database_url)
    yield way
    way.close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where the key that signs is, or will be."""
    return tmp_path / "audit_key.pem"


@pytest.fixture
def signer(key_file: Path) -> Signer:
    """What signs for the audit log."""
    return Signer(key_file)


@pytest.fixture
def notary(log: AuditLog, ledger: Ledger, signer: Signer) -> Notary:
    """What adds checkpoints to `log`; a minute goes by from one time that it tells to the next."""
    minutes = count()
    return notary_of(log, ledger, signer, lambda: AT + next(minutes) * 60_000)


@pytest.fixture
def alarms(sqlite_log: AuditLog, store: Redis) -> Alarms:
    """Alarms about the log in the file."""
    return Alarms(store, sqlite_log, now_ms)


@pytest.fixture
def comparison(sqlite_log: AuditLog, ledger: Ledger, alarms: Alarms) -> Comparison:
    """What compares the log in the file with the ledger."""
    return Comparison(sqlite_log, ledger, alarms)


@pytest.fixture
def audit_status(comparison: Comparison, signer: Signer, store: Redis) -> AuditStatus:
    """How the log in the file stands."""
    return AuditStatus(comparison, signer, Failures(store), now_ms)


@pytest.fixture
def exports(comparison: Comparison, signer: Signer, store: Redis) -> Exports:
    """What exports the log in the file."""
    ids = iter(range(10**6))
    journal = Journal(comparison.ledger, lambda: f"told-{next(ids)}")
    notary = Notary(comparison, signer, lambda: AT)
    return Exports(comparison, journal, signer, notary, ExportLimit(store), lambda: AT)


@pytest.fixture
def ledger(store: Redis) -> Ledger:
    """A ledger on the embedded Valkey, empty."""
    return Ledger(store)
