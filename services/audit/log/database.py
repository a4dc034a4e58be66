"""The database of the audit log, on SQLite or PostgreSQL: connections, transactions and errors."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from services.audit.log.schema import create_tables
from services.audit.log.text_index import INDICES, TextIndex
from shared.errors import UserFacingError

_BUSY_S = 30  # how long a writer waits for other writers
_RETRY_S = 0.01
_CONNECT_S = 5
_RESTART_S = 3.0  # how long a reader waits for a server that was available until then
_RESTART_RETRY_S = 0.05
_WRITERS_LOCK = 0x6B65796C_65646765  # "keyledge"; the number of the advisory lock on PostgreSQL

_Found = TypeVar("_Found")


# Takes the write lock at the start of a transaction. A deferred transaction of SQLite would fail at once,
# whatever its timeout, if another process wrote between its read and its write.
_LOCKS = {"sqlite": "BEGIN IMMEDIATE", "postgresql": f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})"}


class AuditDatabaseError(UserFacingError):
    """The audit log's database can't be used. The message says which and why, without the password."""


class Database:
    """Transactions on the audit log's database. The first one connects and creates missing tables."""

    def __init__(self, url: str | URL, *, read_only: bool = False) -> None:
        """`url` is an SQLAlchemy URL. Raises AuditDatabaseError if it isn't valid or supported.

        With `read_only`, nothing is created or changed.
        """
        parsed = _parse(url)
        self._description = _description(parsed)
        self._engine = _read_only_engine(parsed) if read_only else _engine(parsed)
        self._ready = read_only
        # By the monotonic clock; None while the database is available.
        self._unavailable_since: float | None = float("-inf")

    @property
    def index(self) -> TextIndex:
        """The search index of the entries."""
        return INDICES[self._engine.dialect.name]

    def close(self) -> None:
        """Closes the connections. The next use opens new ones."""
        self._engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction with the write lock. Raises AuditDatabaseError."""
        self._set_up()
        with self._errors(), self._engine.begin() as connection:
            self._lock(connection)
            yield connection

    def read(self, query: Callable[[Connection], _Found]) -> _Found:
        """Returns the result of a query, which is run again if the server restarts.

        Raises AuditDatabaseError, at once if the server was never available or has been down for longer.
        """
        self._set_up()
        deadline = time.monotonic() + _RESTART_S
        with self._errors():
            while True:
                try:
                    with self._engine.connect() as connection:
                        found = query(connection)
                        self._unavailable_since = None
                        return found
                except OperationalError as error:
                    if not _is_unavailable(error):
                        raise
                    now = time.monotonic()
                    since = self._unavailable_since  # another thread may change it
                    if since is None:
                        since = self._unavailable_since = now
                    if now > min(deadline, since + _RESTART_S):
                        raise
                time.sleep(_RESTART_RETRY_S)

    def _set_up(self) -> None:
        """Creates what is missing. Several processes can do so at once."""
        if self._ready:
            return
        with self._errors(), self._engine.begin() as connection:
            self._lock(connection)
            create_tables(connection)
            self.index.set_up(connection)
        self._ready = True
        self._unavailable_since = None

    def _lock(self, connection: Connection) -> None:
        connection.exec_driver_sql(_LOCKS[self._engine.dialect.name])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = " ".join(str(cause).split())
            raise AuditDatabaseError(
                f"The audit log's {self._description} can't be used: {reason}"
            ) from error


def _parse(text: str | URL) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The parser's message may have the password.
        raise AuditDatabaseError(f"KEYLEDGER_AUDIT_DATABASE_URL isn't a valid URL. {_ADVICE}") from None
    if url.get_backend_name() in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"} or url.query:
        raise AuditDatabaseError(f"KEYLEDGER_AUDIT_DATABASE_URL isn't supported. {_ADVICE}")
    return url.set(drivername="sqlite")


# pragma: allowlist nextline secret
_ADVICE = "It must look like postgresql://user:password@host/database or sqlite:////path/to/file."


def _description(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"SQLite file {url.database}"
    address = f"{url.host or 'the local socket'}{f':{url.port}' if url.port else ''}"
    return f"PostgreSQL database {url.database} at {address}"


def _is_unavailable(error: OperationalError) -> bool:
    """Whether a server refused the connection, or closed it during a query."""
    is_refused = error.statement is None
    return not isinstance(error.orig, sqlite3.Error) and (is_refused or error.connection_invalidated)


def _engine(url: URL) -> Engine:
    # Errors must not contain the statement's values.
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_S})
        event.listen(engine, "do_connect", _protect_file)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    try:
        engine = create_engine(
            url,
            hide_parameters=True,
            isolation_level="READ COMMITTED",  # so that reads after the lock see what the last writer wrote
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_S, "client_encoding": "UTF8"},
        )
    except ImportError as error:
        raise AuditDatabaseError(
            "The PostgreSQL driver isn't installed: install keyledger[postgresql]."
        ) from error
    event.listen(engine, "connect", _require_utf8)
    return engine


def _read_only_engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True)
        event.listen(engine, "do_connect", _open_read_only)
        return engine
    return _engine(url).execution_options(postgresql_readonly=True)


def _open_read_only(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
    """Opens a file that isn't in use as immutable: otherwise SQLite would create files next to it."""
    path = Path(arguments[0])
    in_use = path.with_name(f"{path.name}-wal").exists()
    arguments[0] = f"{path.absolute().as_uri()}?mode=ro{'' if in_use else '&immutable=1'}"
    options["uri"] = True


def _protect_file(_dialect: Any, _record: Any, arguments: list[Any], _options: dict[str, Any]) -> None:
    """Creates the file readable only by its owner; SQLite creates those next to it with the same mode."""
    path = Path(arguments[0])
    path.touch(mode=0o600)
    path.chmod(0o600)


def _require_utf8(connection: Any, _record: Any) -> None:
    """Another encoding can't store every name, and the log would stop at the first such event."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise AuditDatabaseError(
            f"The audit log's PostgreSQL database {connection.info.dbname} stores text as {encoding}, which "
            f"lacks some characters. Create one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
        )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin only with _LOCKS
    deadline = time.monotonic() + _BUSY_S
    while not _has_journal(connection):
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(_RETRY_S)
    connection.execute("PRAGMA synchronous = FULL")
    # A file that was tampered with may hold invalid text; the check must be able to read it.
    connection.text_factory = lambda text: text.decode(errors="backslashreplace")


def _has_journal(connection: Any) -> bool:
    # If several processes create the file at once, SQLite fails here without waiting for its timeout.
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
