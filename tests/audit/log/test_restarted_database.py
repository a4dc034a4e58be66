"""Database restarts: reads wait for a restarting database, but not for an unavailable one."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event as Stop

import pytest
from sqlalchemy import Connection, event, text

from services.audit.log import database as databases
from services.audit.log.database import AuditDatabaseError, Database
from services.audit.log.store import AuditLog
from tests.support.histories import records
from tests.support.postgresql import PostgreSQL, postgresql_cluster
from tests.support.processes import until

READERS = 4


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The socket directory of a PostgreSQL server that tests may stop."""
    with postgresql_cluster() as directory:
        yield directory


@pytest.fixture
def url(server: str) -> str:
    return f"postgresql://keyledger@/postgres?host={server}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database(url)) as made:
        assert made.read(one) == 1
        yield made


def tries(database: Database) -> Callable[[], int]:
    """Counts the connection attempts from now on."""
    tried: list[object] = []
    event.listen(database._engine, "do_connect", lambda *_: tried.append(_))
    return lambda: len(tried)


def one(connection: Connection) -> object:
    return connection.execute(text("SELECT 1")).scalar_one()


def breaks_off(connection: Connection) -> None:
    connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


class Clock:
    """A clock that advances only by sleeping, so that a slow machine doesn't matter."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_reads_survive_a_restart(server: str, url: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_RESTART_S", 100)  # a busy machine takes longer for a restart than 3 s
    over = Stop()
    with closing(AuditLog(url)) as log, ThreadPoolExecutor(READERS) as threads:
        log.append(records(range(1, 4)))

        def read() -> set[int]:
            seen = set()
            while not over.is_set():
                seen.add(log.last().position)
            return seen

        readers = [threads.submit(read) for _ in range(READERS)]
        try:
            PostgreSQL(server).stop(mode)
            PostgreSQL(server).start()
        finally:
            over.set()
        assert [reader.result() for reader in readers] == [{3}] * READERS


def test_an_interrupted_read_is_retried(database: Database) -> None:
    looks: list[object] = []

    def look(connection: Connection) -> object:
        looks.append(connection)
        if len(looks) == 1:
            breaks_off(connection)
        return one(connection)

    assert database.read(look) == 1
    assert len(looks) == 2


def test_a_read_that_is_always_interrupted_fails(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "time", Clock())
    with pytest.raises(AuditDatabaseError, match=r"can't be used: .*terminat"):
        database.read(breaks_off)
    assert database.read(one) == 1


def test_reads_fail_immediately_while_the_database_stays_unavailable(
    server: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "time", Clock())
    PostgreSQL(server).stop()
    try:
        tried = tries(database)

        def tries_now() -> int:
            before = tried()
            with pytest.raises(AuditDatabaseError, match=r"at .* can't be used"):
                database.read(one)
            return tried() - before

        assert tries_now() > 1
        until(lambda: tries_now() == 1, what="a refusal at once")
    finally:
        PostgreSQL(server).start()
    assert database.read(one) == 1


def test_a_database_that_was_never_reachable_is_not_retried(tmp_path: object) -> None:
    with closing(Database(f"postgresql://keyledger@/postgres?host={tmp_path}", read_only=True)) as database:
        tried = tries(database)
        with pytest.raises(AuditDatabaseError):
            database.read(one)
        assert tried() == 1


def test_a_failing_query_is_not_retried(database: Database) -> None:
    looks: list[object] = []

    def look(connection: Connection) -> None:
        looks.append(connection)
        connection.execute(text("SET LOCAL statement_timeout = 1"))
        connection.execute(text("SELECT pg_sleep(5)"))

    with pytest.raises(AuditDatabaseError, match="statement timeout"):
        database.read(look)
    assert len(looks) == 1
