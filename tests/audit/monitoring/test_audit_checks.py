"""The `keyledger doctor` checks of the audit log, on each kind of database."""

import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import text

from services.audit.components import AuditComponents
from services.audit.ingest.job import catch_up
from services.audit.integrity.signer import Signer
from services.audit.log.database import AuditDatabaseError, Database
from services.audit.log.store import AuditLog
from services.audit.monitoring.checks import (
    check_audit_log,
    check_checkpoints,
    check_database,
    check_database_clock,
    check_integrity,
)
from services.audit.monitoring.inspection import AuditInspection
from services.audit.status import CHECKS
from shared.clock import now_ms
from shared.eventstore.events import AuditChecked, AuditFinding
from shared.eventstore.ledger import Ledger
from shared.service.checks import Level
from shared.service.installation import Installation
from tests.support.examinations import examined, expect, expect_ok
from tests.support.histories import created, grow, notary_of, record
from tests.support.tampering import Tampered

DAY_MS = 24 * 60 * 60 * 1000
FINDING = AuditFinding(kind="changed", count=2, position=7, detail="entry_hash")


@pytest.fixture
def installation(
    store: Redis, valkey_url: str, database_url: str, key_file: Path, tmp_path: Path
) -> Iterator[Installation]:
    """An installation with its own empty store and an empty database of each kind."""
    assert not store.dbsize()
    places = {"redis_url": valkey_url, "audit_database_url": database_url, "audit_key_file": key_file}
    with examined(tmp_path / "data", **places) as opened:
        yield opened


def written(log: AuditLog, ledger: Ledger, signer: Signer) -> None:
    """Copies the ledger's events to the log and signs a checkpoint."""
    catch_up(log, ledger)
    notary_of(log, ledger, signer, now_ms).sign_checkpoint()


def test_a_database_that_does_not_exist_yet_is_ok_and_is_not_created(
    installation: Installation, tmp_path: Path
) -> None:
    expect_ok(check_database(installation), "yet; the audit worker")
    assert not [*tmp_path.iterdir()]
    with (
        closing(AuditLog(AuditComponents(installation.shared).database_url, read_only=True)) as log,
        pytest.raises(AuditDatabaseError),
    ):
        log.last()


def test_a_readable_database_is_reported_with_its_version(
    installation: Installation, log: AuditLog, ledger: Ledger, signer: Signer
) -> None:
    grow(ledger, 1)
    written(log, ledger, signer)
    (found,) = check_database(installation)
    assert found.level is Level.OK
    assert found.found.startswith(("SQLite 3.", "PostgreSQL 1"))
    expect_ok(check_audit_log(installation), "up to date")
    expect_ok(check_integrity(installation), "not verified yet")
    expect_ok(check_checkpoints(installation), "covers all up to 1")


def test_unindexed_entries_are_reported(installation: Installation, log: AuditLog, ledger: Ledger) -> None:
    grow(ledger, 3)
    catch_up(log, ledger)
    with log.database.writing() as connection:
        log.database.index.start(connection)
    found = [*check_audit_log(installation)]
    assert [each.level for each in found] == [Level.OK, Level.WARNING]
    assert "3 entries aren't indexed yet" in found[1].found


def test_a_read_only_database_rejects_writes(log: AuditLog, database_url: str) -> None:
    log.last()
    with (
        closing(Database(database_url, read_only=True)) as database,
        pytest.raises(AuditDatabaseError, match=r"read-?only"),
    ):
        database.read(lambda connection: connection.execute(text("CREATE TABLE written (n integer)")))


def test_a_read_only_log_changes_no_files(sqlite_log: AuditLog, sqlite_url: str, tmp_path: Path) -> None:
    sqlite_log.last()
    for others_use_it in (True, False):
        if not others_use_it:
            sqlite_log.close()
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        with closing(AuditLog(sqlite_url, read_only=True)) as reading:
            assert reading.last().position == 0
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
        assert others_use_it or {path.name for path in before} == {"audit.db"}


def test_a_read_only_log_sees_entries_appended_meanwhile(
    sqlite_log: AuditLog, sqlite_url: str, ledger: Ledger
) -> None:
    grow(ledger, 2)
    sqlite_log.append(ledger.read(0, 1))
    with closing(AuditLog(sqlite_url, read_only=True)) as reading:
        assert reading.last().position == 1
        sqlite_log.append(ledger.read(0, 2))
        assert reading.last().position == 2


def test_a_file_that_is_not_a_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "audit.db").write_text("c4nary" * 1000)
    with examined(tmp_path) as installation:
        findings = [*check_database(installation)]
    expect(findings, Level.PROBLEM, "file is not a database", "KEYLEDGER_AUDIT_DATABASE_URL")
    assert "c4nary" not in str(findings)


def test_an_audit_log_that_is_not_being_written_is_reported(
    installation: Installation, log: AuditLog, ledger: Ledger
) -> None:
    ledger.fill(0, [record(1, at=now_ms() - 60_000)])
    assert log.last().position == 0
    told = expect(check_audit_log(installation), Level.PROBLEM, "at position 0 of 1, ", "audit relay")
    assert re.search(r", 6\d s behind$", told)


def test_a_ledger_that_went_backwards_is_reported(
    installation: Installation, log: AuditLog, ledger: Ledger, store: Redis
) -> None:
    grow(ledger, 3)
    catch_up(log, ledger)
    store.flushall()
    grow(ledger, 1)
    expect(check_audit_log(installation), Level.PROBLEM, "at position 3, isn't in the ledger", "runbooks.md")


@pytest.mark.parametrize(
    ("age", "findings", "level", "found"),
    [
        (1, (), Level.OK, "verified on "),
        (1, (FINDING,), Level.PROBLEM, "verification failed on "),
        (9, (FINDING,), Level.PROBLEM, "verification failed on "),
        (9, (), Level.WARNING, "not verified for 9 days"),
        (9, None, Level.WARNING, "never verified in 9 days"),
        (1, None, Level.OK, "not verified yet"),
    ],
)
def test_an_audit_log_not_verified_within_a_week_is_reported(
    installation: Installation,
    log: AuditLog,
    ledger: Ledger,
    age: int,
    findings: tuple[AuditFinding, ...] | None,
    level: Level,
    found: str,
) -> None:
    assert log.last().position == 0
    payload = AuditChecked(entries=3, checkpoints=1, position=3, findings=findings or ())
    at = now_ms() - age * DAY_MS
    first = record(1, created(), at=at)
    ledger.fill(0, [first if findings is None else record(1, payload, subject=CHECKS, at=at)])
    (told,) = check_integrity(installation)
    assert (told.level, found in told.found) == (level, True)
    assert level is Level.OK or "`keyledger audit check`" in str(told.advice)


def test_a_signed_checkpoint_missing_from_the_database_is_reported(
    installation: Installation, log: AuditLog, ledger: Ledger, signer: Signer, tampered: Tampered
) -> None:
    grow(ledger, 1)
    written(log, ledger, signer)
    tampered.disarm()
    tampered.run("DELETE FROM audit_checkpoints")
    expect(
        check_checkpoints(installation),
        Level.PROBLEM,
        "number 1 was signed, but is missing",
        "docs/runbooks.md",
    )


def test_a_missing_copy_of_the_last_checkpoint_is_reported(
    installation: Installation, log: AuditLog, ledger: Ledger, signer: Signer
) -> None:
    grow(ledger, 1)
    written(log, ledger, signer)
    signer.anchor_file.unlink()
    expect(
        check_checkpoints(installation),
        Level.WARNING,
        "audit_key.pem.last is missing",
        "checkpoint` elsewhere",
    )


def test_an_unreadable_checkpoint_is_reported_without_its_content(
    installation: Installation, log: AuditLog
) -> None:
    log.restore_checkpoints([b"c4nary"])
    findings = [*check_checkpoints(installation)]
    expect(
        findings,
        Level.PROBLEM,
        "the last one can't be read: it doesn't end with",
        "`keyledger audit check`",
    )
    assert "c4nary" not in str(findings)


def test_entries_without_a_checkpoint_for_too_long_are_reported(
    installation: Installation, log: AuditLog, ledger: Ledger, signer: Signer
) -> None:
    grow(ledger, 1, payloads=[created()])
    written(log, ledger, signer)
    head = ledger.read(0, 1)[0]
    ledger.fill(1, [head._replace(position=2, at=now_ms() - 11 * 60_000)])
    catch_up(log, ledger)
    expect(
        check_checkpoints(installation),
        Level.PROBLEM,
        "none covers the entries of the last 11 minutes",
        "signs nothing",
    )


def test_an_empty_log_needs_no_checkpoint(installation: Installation, log: AuditLog) -> None:
    assert log.last().position == 0
    expect_ok(check_checkpoints(installation), "none yet")


def test_the_clock_of_a_database_server_is_checked(
    installation: Installation, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.last()
    if installation.of(AuditInspection).database_file:
        assert not [*check_database_clock(installation)]
        return
    expect_ok(check_database_clock(installation), "the database's and this machine's are within")
    monkeypatch.setattr("shared.service.clocks.time.time", time.monotonic)
    expect(check_database_clock(installation), Level.PROBLEM, "the database's is", "NTP")
