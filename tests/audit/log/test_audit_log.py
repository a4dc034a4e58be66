"""Appending to the log and reading it, on each kind of database."""

import multiprocessing
import sqlite3
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlalchemy.exc import DBAPIError

from services.audit.ingest.worker import caught_up
from services.audit.integrity.alarms import Alarms
from services.audit.log.database import AuditDatabaseError
from services.audit.log.entry import GENESIS, chain
from services.audit.log.filters import Filters
from services.audit.log.store import AuditLog, GapError, StoredCheckpoint
from shared.eventstore.envelope import Actor, Record
from shared.eventstore.ledger import BEGINNING, Checkpoint, Ledger
from tests.support.histories import AT, found, record, records, write
from tests.support.tampering import Tampered, copied


def whole(log: AuditLog) -> list[int]:
    """The positions of a log, after checking that each entry matches its event and the chain."""
    entries = list(log.walk(2**62))
    assert entries == list(chain(records(entry.position for entry in entries), GENESIS))
    return [entry.position for entry in entries]


def test_an_empty_log_is_at_the_beginning(log: AuditLog) -> None:
    assert log.last() == BEGINNING
    assert log.search.page(Filters(workspace="default"), 10) == ([], None, [])


def test_events_are_appended_in_order(log: AuditLog) -> None:
    assert log.append(records(range(1, 4))) == 3
    assert log.append(records(range(4, 6))) == 2
    assert whole(log) == [1, 2, 3, 4, 5]
    assert log.last() == Checkpoint(5, "event-5")


def test_existing_events_are_not_written_again(log: AuditLog) -> None:
    log.append(records(range(1, 4)))
    assert log.append(records(range(1, 4))) == 0
    assert log.append(records(range(2, 7))) == 3
    assert log.append([]) == 0
    assert whole(log) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("positions", [[5, 6], [4, 6], [4, 5, 7], [4, 4]])
def test_a_gap_is_refused_and_nothing_is_written(log: AuditLog, positions: list[int]) -> None:
    log.append(records(range(1, 4)))
    with pytest.raises(GapError):
        log.append(records(positions))
    assert whole(log) == [1, 2, 3]


def test_unreadable_events_do_not_stop_the_log(log: AuditLog) -> None:
    bodies = [b"no JSON", b"\x00\xff", b'{"id":"\\u0000","subject":"\\u0000","type":"\\u0000"}']
    odd = [Record(position, AT, body) for position, body in enumerate(bodies, 1)]
    label = "\x00" + "é" * 5_000
    odd.append(record(4, actor=Actor(kind="key", id="\x00", label=label)))
    assert log.append(odd) == 4
    assert list(log.walk(4)) == list(chain(odd, GENESIS))
    assert found(log, actor=label) == [4]


def test_ten_threads_appending_the_same_events_write_each_once(database_url: str) -> None:
    pages = [records(range(start, start + 10)) for start in range(1, 101, 10)]

    def write(_: int) -> int:
        log = AuditLog(database_url)
        try:
            return sum(log.append(page) for page in pages)
        finally:
            log.close()

    with ThreadPoolExecutor(10) as threads:
        written = sum(threads.map(write, range(10)))
    log = AuditLog(database_url)
    assert written == 100
    assert whole(log) == list(range(1, 101))
    log.close()


def append_all(url: str) -> int:
    """The work of each process."""
    log = AuditLog(url)
    return sum(log.append(records(range(start, start + 5))) for start in range(1, 101, 5))


def test_processes_creating_the_file_concurrently_write_each_event_once(sqlite_url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as processes:
        written = sum(processes.map(append_all, [sqlite_url] * 4, chunksize=1))
        processes.close()
        processes.join()
    log = AuditLog(sqlite_url)
    assert written == 100
    assert whole(log) == list(range(1, 101))
    log.close()


def test_appending_waits_while_another_process_creates_the_file(tmp_path: Path) -> None:
    file = tmp_path / "audit.db"
    log = AuditLog(f"sqlite:///{file}")
    # SQLite doesn't wait for locks while it changes the journal mode: it fails immediately.
    with sqlite3.connect(file, isolation_level=None) as other, ThreadPoolExecutor(1) as thread:
        other.execute("BEGIN IMMEDIATE")
        appended = thread.submit(log.append, records([1]))
        with pytest.raises(TimeoutError):
            appended.result(0.2)
        other.execute("COMMIT")
        assert appended.result(10) == 1
    other.close()
    log.close()


def refused(log: AuditLog, tampered: Tampered, *statements: str) -> None:
    log.append(records(range(1, 4)))
    with pytest.raises(DBAPIError, match="the audit log is only ever appended to"):
        tampered.run(*statements)
    assert whole(log) == [1, 2, 3]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET at = 7 WHERE position = 2",
        "UPDATE audit_entries SET position = 9 WHERE position = 3",
        "DELETE FROM audit_entries WHERE position = 3",
        "DELETE FROM audit_entries",
        f"INSERT INTO audit_entries {copied(2, 2)}",
        f"INSERT INTO audit_entries {copied(2, 5)}",
        f"INSERT INTO audit_entries {copied(2, 0)}",
        f"INSERT INTO audit_entries {copied(2, -1)}",
        f"INSERT INTO audit_entries {copied(2, 'NULL')}",
        f"INSERT INTO audit_entries {copied(2, 2)} ON CONFLICT DO NOTHING",
        f"INSERT INTO audit_entries {copied(2, 2)} ON CONFLICT (position) DO UPDATE SET at = 7",
    ],
)
def test_the_database_rejects_changes_to_written_entries(
    log: AuditLog, tampered: Tampered, statement: str
) -> None:
    refused(log, tampered, statement)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT OR REPLACE INTO audit_entries {copied(2, 2)}",
        f"INSERT OR IGNORE INTO audit_entries {copied(2, 2)}",
        f"REPLACE INTO audit_entries {copied(2, 3)}",
        "UPDATE OR REPLACE audit_entries SET position = 2 WHERE position = 3",
        "UPDATE OR IGNORE audit_entries SET at = 7",
    ],
)
def test_sqlite_specific_ways_to_overwrite_are_rejected(
    log: AuditLog, tampered: Tampered, statement: str
) -> None:
    refused(log, tampered, statement)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "statements",
    [
        ["TRUNCATE audit_entries"],
        ["TRUNCATE audit_entries CASCADE"],
        ["SET session_replication_role = replica", "DELETE FROM audit_entries"],
    ],
)
def test_postgresql_specific_ways_to_overwrite_are_rejected(
    log: AuditLog, tampered: Tampered, statements: list[str]
) -> None:
    refused(log, tampered, *statements)


def test_dropped_triggers_are_restored_by_the_next_process(
    database_url: str, log: AuditLog, tampered: Tampered
) -> None:
    log.append(records([1]))
    if tampered.dialect == "sqlite":
        tampered.run("DROP TRIGGER audit_entries_no_delete")
    else:
        tampered.run("DROP TRIGGER audit_entries_no_change ON audit_entries")
    again = AuditLog(database_url)
    again.last()
    with pytest.raises(DBAPIError, match="only ever appended to"):
        tampered.run("DELETE FROM audit_entries")
    again.close()


def test_the_file_is_owner_only_and_safe_against_power_loss(tmp_path: Path) -> None:
    file = tmp_path / "audit.db"
    file.touch(mode=0o644)
    log = AuditLog(f"sqlite:///{file}")
    log.append(records([1]))
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 3  # the journal and its index beside it
    # These settings belong to a connection, and nothing else shows them.
    assert log.database.read(lambda one: one.exec_driver_sql("PRAGMA journal_mode").scalar()) == "wal"
    assert log.database.read(lambda one: one.exec_driver_sql("PRAGMA synchronous").scalar()) == 2
    log.close()


def test_a_lost_index_is_rebuilt_with_the_next_entry(log: AuditLog) -> None:
    log.append(records(range(1, 5)))
    with log.database.writing() as connection:
        log.database.index.start(connection)
    assert found(log) == []
    log.append(records([5]))
    assert found(log) == [5, 4, 3, 2, 1]


def test_an_index_of_another_version_is_rebuilt(log: AuditLog, ledger: Ledger) -> None:
    write(ledger, log, records(range(1, 5)))
    index = log.database.index
    with log.database.writing() as connection:  # as a version before terms had one left it
        index.start(connection)
        if log.database._engine.dialect.name == "sqlite":
            connection.exec_driver_sql("INSERT INTO audit_terms (audit_terms) VALUES ('delete-all')")
        else:
            connection.exec_driver_sql("DELETE FROM audit_terms")
        index.add(connection, [(position, {"old"}) for position in range(1, 5)])
    assert (found(log), log.search.indexed()) == ([], 0)
    caught_up(log, ledger, Mock(Alarms))
    assert (found(log), log.search.indexed()) == ([4, 3, 2, 1], 4)


def test_the_index_is_rebuilt_in_batches_across_jobs(
    log: AuditLog, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ledger, log, records(range(1, 11)))
    with log.database.writing() as connection:
        log.database.index.start(connection)
    monkeypatch.setattr("services.audit.log.store._INDEX_PAGE", 2)
    monkeypatch.setattr("services.audit.ingest.worker._INDEX_PAGES_PER_JOB", 3)
    assert caught_up(log, ledger, Mock(Alarms)) is True
    assert log.search.indexed() == 6
    caught_up(log, ledger, Mock(Alarms))
    assert log.search.indexed() == 10
    assert caught_up(log, ledger, Mock(Alarms)) is False


def test_the_index_is_rebuilt_on_demand(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.audit.log.store._INDEX_PAGE", 4)
    log.append(records(range(1, 11)))
    told: list[tuple[int, int]] = []
    log.reindex(lambda done, of: told.append((done, of)))
    assert told == [(4, 10), (8, 10), (10, 10)]
    assert found(log) == list(range(10, 0, -1))


def test_a_checkpoint_is_added_only_as_the_next_one(log: AuditLog) -> None:
    assert log.add_checkpoint(StoredCheckpoint(2, b"b")) is False
    assert log.add_checkpoint(StoredCheckpoint(1, b"a")) is True
    assert log.add_checkpoint(StoredCheckpoint(1, b"another")) is False
    assert log.add_checkpoint(StoredCheckpoint(2, b"b")) is True
    assert log.checkpoints() == [(1, b"a"), (2, b"b")]
    assert log.last_checkpoint() == (2, b"b")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_checkpoints SET note = 'x' WHERE sequence = 1",
        "DELETE FROM audit_checkpoints WHERE sequence = 2",
        "INSERT INTO audit_checkpoints VALUES (1, 'x')",
        "INSERT INTO audit_checkpoints VALUES (4, 'x')",
    ],
)
def test_the_database_rejects_changes_to_checkpoints(
    log: AuditLog, tampered: Tampered, statement: str
) -> None:
    log.restore_checkpoints([b"a", b"b"])
    with pytest.raises(DBAPIError, match="the audit log is only ever appended to"):
        tampered.run(statement)
    assert log.checkpoints() == [(1, b"a"), (2, b"b")]


def test_a_missing_driver_is_reported_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(AuditDatabaseError, match=r"install keyledger\[postgresql\]"):
        AuditLog("postgresql://audit@127.0.0.1:9/keyledger")


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_an_unreachable_database_is_reported_without_its_password(scheme: str) -> None:
    log = AuditLog(f"{scheme}://audit:hunter2@127.0.0.1:9/keyledger")
    with pytest.raises(AuditDatabaseError) as caught:
        log.last()
    assert "PostgreSQL database keyledger at 127.0.0.1:9" in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "mysql://u:hunter2@host/db",  # pragma: allowlist secret
        "postgresql://u:hunter2@host:x/db",  # pragma: allowlist secret
        "sqlite://",
    ],
)
def test_an_invalid_database_url_is_rejected_with_the_expected_form(url: str) -> None:
    with pytest.raises(AuditDatabaseError, match="It must look like postgresql://") as caught:
        AuditLog(url)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_cannot_be_created_or_is_not_a_database_is_reported(tmp_path: Path) -> None:
    log = AuditLog(f"sqlite:///{tmp_path / 'none' / 'audit.db'}")
    with pytest.raises(AuditDatabaseError, match=r"none/audit\.db can't be used: .*No such file"):
        log.append(records([1]))
    (tmp_path / "text").write_text(
        "This is no database, but a text that is long enough to look like one." * 20
    )
    log = AuditLog(f"sqlite:///{tmp_path / 'text'}")
    with pytest.raises(AuditDatabaseError, match="file is not a database"):
        log.last()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_not_encoded_as_utf8_is_rejected(postgresql_server: str, encoding: str) -> None:
    url = f"postgresql://keyledger@/{{}}?host={postgresql_server}"
    server = Tampered(url.format("postgres"))
    name = f"other_{encoding.lower()}"
    server.run(
        f"DROP DATABASE IF EXISTS {name}",
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0",
    )
    server.close()
    log = AuditLog(url.format(name))
    with pytest.raises(AuditDatabaseError, match=rf"{name} stores text as {encoding}, .* ENCODING 'UTF8'"):
        log.append(records([1]))
    log.close()


def test_a_log_does_not_connect_before_its_first_use(tmp_path: Path) -> None:
    AuditLog(f"sqlite:///{tmp_path / 'audit.db'}")
    assert list(tmp_path.iterdir()) == []
