"""An empty audit log database of each kind for each test."""

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
from tests.support.histories import AT, notary_of
from tests.support.tampering import Tampered


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a file that doesn't exist yet."""
    return f"sqlite:///{tmp_path / 'audit.db'}"


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """The URL of an empty database."""
    url = f"postgresql://keyledger@/postgres?host={postgresql_server}"
    server = Tampered(url)
    server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    server.close()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database of each kind."""
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
    """An audit log in a SQLite file, for tests that don't depend on the database."""
    audit_log = AuditLog(sqlite_url)
    yield audit_log
    audit_log.close()


@pytest.fixture
def tampered(database_url: str) -> Iterator[Tampered]:
    """Direct access to the database of `log`."""
    way = Tampered(database_url)
    yield way
    way.close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The path of the signing key, which may not exist yet."""
    return tmp_path / "audit_key.pem"


@pytest.fixture
def signer(key_file: Path) -> Signer:
    """The audit log's signer."""
    return Signer(key_file)


@pytest.fixture
def notary(log: AuditLog, ledger: Ledger, signer: Signer) -> Notary:
    """A notary that adds checkpoints to `log`; its clock advances one minute per reading."""
    minutes = count()
    return notary_of(log, ledger, signer, lambda: AT + next(minutes) * 60_000)


@pytest.fixture
def alarms(sqlite_log: AuditLog, store: Redis) -> Alarms:
    """Alarms of the log in the SQLite file."""
    return Alarms(store, sqlite_log, now_ms)


@pytest.fixture
def comparison(sqlite_log: AuditLog, ledger: Ledger, alarms: Alarms) -> Comparison:
    """Compares the log in the SQLite file with the ledger."""
    return Comparison(sqlite_log, ledger, alarms)


@pytest.fixture
def audit_status(comparison: Comparison, signer: Signer, store: Redis) -> AuditStatus:
    """The status of the log in the SQLite file."""
    return AuditStatus(comparison, signer, Failures(store), now_ms)


@pytest.fixture
def exports(comparison: Comparison, signer: Signer, store: Redis) -> Exports:
    """Exports of the log in the SQLite file."""
    ids = iter(range(10**6))
    journal = Journal(comparison.ledger, lambda: f"told-{next(ids)}")
    notary = Notary(comparison, signer, lambda: AT)
    return Exports(comparison, journal, signer, notary, ExportLimit(store), lambda: AT)


@pytest.fixture
def ledger(store: Redis) -> Ledger:
    """An empty ledger on the embedded Valkey."""
    return Ledger(store)
