"""Tampering by an attacker with access to the audit log's file or server."""

from typing import Any

from sqlalchemy import create_engine, make_url, text

from services.audit.log.entry import Entry

_TABLES = ("audit_entries", "audit_checkpoints")


def copied(source: int, position: int | str) -> str:
    """A SELECT that copies an entry to another position."""
    columns = ", ".join(Entry._fields[1:])
    return f"SELECT {position}, {columns} FROM audit_entries WHERE position = {source}"  # noqa: S608  # a test's own


class Tampered:
    """Direct access to the database, as the owner of the file or the server has it."""

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._engine = create_engine(parsed, isolation_level="AUTOCOMMIT")
        self.dialect = self._engine.dialect.name

    def run(self, *statements: str, **values: Any) -> None:
        """Runs statements, each in its own transaction."""
        with self._engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement), values)

    def change(self, entry_at: int, assignments: str, **values: Any) -> None:
        """Changes an entry."""
        statement = f"UPDATE audit_entries SET {assignments} WHERE position = {entry_at}"  # noqa: S608  # a test's own
        self.run(statement, **values)

    def copy(self, source: int, position: int | str) -> None:
        """Inserts an entry a second time, at another position."""
        self.run(f"INSERT INTO audit_entries {copied(source, position)}")

    def overwrite(self, entry: Entry) -> None:
        """Overwrites the entry at the same position."""
        columns = ", ".join(f"{name} = :{name}" for name in Entry._fields[1:])
        self.change(entry.position, columns, **entry._asdict())

    def disarm(self) -> None:
        """Removes the database's triggers."""
        if self.dialect == "sqlite":
            rules = ("no_update", "no_delete", "only_next")
            self.run(*(f"DROP TRIGGER {table}_{rule}" for table in _TABLES for rule in rules))
        else:
            self.run(*(f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in _TABLES))

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()
