"""The database of the audit log: SQLite or PostgreSQL, and the rules that it enforces itself."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from services.audit.log.text_index import INDICES
from services.audit.log.text_index import Index as TermsIndex
from shared.errors import UserFacingError

_BUSY_S = 30  # how long a writer waits for those before it
_RETRY_S = 0.01
_CONNECT_S = 5
_RESTART_S = 3.0  # how long those who read wait for a server that was there until then
_RESTART_RETRY_S = 0.05
_WRITERS_LOCK = 0x6B65796C_65646765  # "keyledge"; the lock's name among all of the PostgreSQL server

_metadata = MetaData()
_Found = TypeVar("_Found")


class _Bytes(LargeBinary):
    """Bytes as the driver gives them: a file that was tampered with may hold anything."""

    def result_processor(self, *_: Any) -> None:
        return None


# Named and ordered as services.audit.log.entry.Entry.
ENTRIES = Table(
    "audit_entries",
    _metadata,
    # SQLite gives out its own row ids only under this very name of the type.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("record", _Bytes, nullable=False),
    Column("previous_hash", _Bytes, nullable=False),
    Column("entry_hash", _Bytes, nullable=False),
    Index("audit_entries_at", "at", "position"),
)

CHECKPOINTS = Table(
    "audit_checkpoints",
    _metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("note", _Bytes, nullable=False),
)

# Both tables are only ever appended to, each at the number after its last.
_NUMBERED = {"audit_entries": "position", "audit_checkpoints": "sequence"}

# An insert is looked at before its conflict is resolved, so INSERT OR REPLACE is refused here as well.
_SQLITE_RULES = (
    """CREATE TRIGGER IF NOT EXISTS {table}_no_update BEFORE UPDATE ON {table}
    BEGIN SELECT RAISE(ABORT, 'the audit log is only ever appended to'); END""",
    """CREATE TRIGGER IF NOT EXISTS {table}_no_delete BEFORE DELETE ON {table}
    BEGIN SELECT RAISE(ABORT, 'the audit log is only ever appended to'); END""",
    """CREATE TRIGGER IF NOT EXISTS {table}_only_next BEFORE INSERT ON {table}
    WHEN NEW.{number} IS NOT (SELECT coalesce(max({number}), 0) + 1 FROM {table})
    BEGIN SELECT RAISE(ABORT, 'the audit log is only ever appended to'); END""",
)

# ALWAYS, for else a session could switch the triggers off for itself.
_POSTGRESQL_RULES = (
    """CREATE OR REPLACE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the audit log is only ever appended to'; END $$""",
    """CREATE OR REPLACE FUNCTION {table}_only_next() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.{number} IS DISTINCT FROM (SELECT coalesce(max({number}), 0) + 1 FROM {table}) THEN
        RAISE EXCEPTION 'the audit log is only ever appended to';
      END IF;
      RETURN NEW;
    END $$""",
    """CREATE OR REPLACE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE
    ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()""",
    """CREATE OR REPLACE TRIGGER {table}_only_next BEFORE INSERT
    ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_only_next()""",
    "ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_no_change",
    "ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_only_next",
)

_RULES = {"sqlite": _SQLITE_RULES, "postgresql": _POSTGRESQL_RULES}

# What makes a transaction the only one that writes, from its first statement on. A deferred transaction
# of SQLite would fail at once, whatever its timeout, if another writer came between its read and its write.
_LOCKS = {"sqlite": "BEGIN IMMEDIATE", "postgresql": f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})"}


class AuditDatabaseError(UserFacingError):
    """The audit log's database cannot be used; the message says which, and why, but no password."""


class Database:
    """Transactions on the audit log's database, which is connected to and set up when it is first used."""

    def __init__(self, url: str | URL, *, read_only: bool = False) -> None:
        """`url` is as SQLAlchemy takes it. Raises AuditDatabaseError for one of no use.

        `read_only` makes nothing that is missing, and changes nothing.
        """
        parsed = _parse(url)
        self._place = _place(parsed)
        self._engine = _engine_to_read(parsed) if read_only else _engine(parsed)
        self._ready = read_only
        self._away_since: float | None = float("-inf")  # by the monotonic clock; None while it answers

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @property
    def index(self) -> TermsIndex:
        """By which entries are found."""
        return INDICES[self.dialect]

    def close(self) -> None:
        """Closes the connections; another use opens new ones."""
        self._engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that has the database to itself for writing. Raises AuditDatabaseError."""
        self._set_up()
        with self._errors(), self._engine.begin() as connection:
            self._lock(connection)
            yield connection

    def read(self, look: Callable[[Connection], _Found]) -> _Found:
        """What a look finds; it is begun anew if a server is restarted meanwhile.

        Raises AuditDatabaseError, at once where a server was never there or has been away for longer.
        """
        self._set_up()
        deadline = time.monotonic() + _RESTART_S
        with self._errors():
            while True:
                try:
                    with self._engine.connect() as connection:
                        found = look(connection)
                        self._away_since = None
                        return found
                except OperationalError as error:
                    if not _is_away(error):
                        raise
                    now = time.monotonic()
                    since = self._away_since  # which another thread may change meanwhile
                    if since is None:
                        since = self._away_since = now
                    if now > min(deadline, since + _RESTART_S):
                        raise
                time.sleep(_RESTART_RETRY_S)

    def _set_up(self) -> None:
        """Creates what is missing; several processes may do so at once."""
        if self._ready:
            return
        with self._errors(), self._engine.begin() as connection:
            self._lock(connection)
            _metadata.create_all(connection)
            self.index.set_up(connection)
            for table, number in _NUMBERED.items():
                for rule in _RULES[self.dialect]:
                    connection.exec_driver_sql(rule.format(table=table, number=number))
        self._ready = True
        self._away_since = None  # it is there

    def _lock(self, connection: Connection) -> None:
        connection.exec_driver_sql(_LOCKS[self.dialect])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = " ".join(str(cause).split())
            raise AuditDatabaseError(f"The audit log's {self._place} cannot be used: {reason}") from error


def _parse(text: str | URL) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The parser's words may hold the password.
        raise AuditDatabaseError(f"KEYLEDGER_AUDIT_DATABASE_URL isn't a valid URL. {_WANTED}") from None
    if url.get_backend_name() in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"} or url.query:
        raise AuditDatabaseError(f"KEYLEDGER_AUDIT_DATABASE_URL isn't supported. {_WANTED}")
    return url.set(drivername="sqlite")


# pragma: allowlist nextline secret
_WANTED = "It must look like postgresql://user:password@host/database or sqlite:////path/to/file."


def _place(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"SQLite file {url.database}"
    address = f"{url.host or 'the local socket'}{f':{url.port}' if url.port else ''}"
    return f"PostgreSQL database {url.database} at {address}"


def _is_away(error: OperationalError) -> bool:
    """Whether a server let nobody in, or broke off what was under way."""
    is_refused = error.statement is None
    return not isinstance(error.orig, sqlite3.Error) and (is_refused or error.connection_invalidated)


def _engine(url: URL) -> Engine:
    # What goes wrong is told without the statement's values.
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_S})
        event.listen(engine, "do_connect", _protect_file)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            isolation_level="READ COMMITTED",  # so that reads after the lock see what the last writer left
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_S, "client_encoding": "UTF8"},
        )
    except ImportError as error:
        raise AuditDatabaseError(
            "The PostgreSQL driver isn't installed: install keyledger[postgresql]."
        ) from error
    event.listen(engine, "connect", _refuse_other_text)
    return engine


def _engine_to_read(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True)
        event.listen(engine, "do_connect", _only_read_file)
        return engine
    return _engine(url).execution_options(postgresql_readonly=True)


def _only_read_file(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
    """Where nobody has the file open, SQLite would make those beside it even to read, and leave them."""
    path = Path(arguments[0])
    in_use = path.with_name(f"{path.name}-wal").exists()
    arguments[0] = f"{path.absolute().as_uri()}?mode=ro{'' if in_use else '&immutable=1'}"
    options["uri"] = True


def _protect_file(_dialect: Any, _record: Any, arguments: list[Any], _options: dict[str, Any]) -> None:
    """The file is for its owner alone, and SQLite makes those beside it with the same mode."""
    path = Path(arguments[0])
    path.touch(mode=0o600)
    path.chmod(0o600)


def _refuse_other_text(connection: Any, _record: Any) -> None:
    """One of another encoding could not hold each name, and the log would stand still at the first."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise AuditDatabaseError(
            f"The audit log's PostgreSQL database {connection.info.dbname} keeps text as {encoding}, which "
            f"has no place for some. Make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
        )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _LOCKS says, and nowhere else
    deadline = time.monotonic() + _BUSY_S
    while not _has_journal(connection):
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(_RETRY_S)
    connection.execute("PRAGMA synchronous = FULL")
    # Text that is none comes from a file that was tampered with: the check has to read it to find it.
    connection.text_factory = lambda text: text.decode(errors="backslashreplace")


def _has_journal(connection: Any) -> bool:
    # Where several processes make the file at once, SQLite fails here without waiting for its timeout.
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
