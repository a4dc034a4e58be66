"""The tables of the audit log, and the triggers by which the database itself makes them append-only."""

from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, LargeBinary, MetaData, Table

_metadata = MetaData()


class _Bytes(LargeBinary):
    """Bytes as the driver returns them: a file that was tampered with may hold any type."""

    def result_processor(self, *_: Any) -> None:
        return None


# Named and ordered like the fields of services.audit.log.entry.Entry.
ENTRIES = Table(
    "audit_entries",
    _metadata,
    # SQLite uses a column as the row ID only if its type is exactly INTEGER.
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

# Each row must have the number after the last one.
_NUMBERED = {"audit_entries": "position", "audit_checkpoints": "sequence"}

# The insert trigger runs before a conflict is resolved, so it rejects INSERT OR REPLACE too.
_SQLITE_TRIGGERS = (
    """CREATE TRIGGER IF NOT EXISTS {table}_no_update BEFORE UPDATE ON {table}
    BEGIN SELECT RAISE(ABORT, 'the audit log is only ever appended to'); END""",
    """CREATE TRIGGER IF NOT EXISTS {table}_no_delete BEFORE DELETE ON {table}
    BEGIN SELECT RAISE(ABORT, 'the audit log is only ever appended to'); END""",
    """CREATE TRIGGER IF NOT EXISTS {table}_only_next BEFORE INSERT ON {table}
    WHEN NEW.{number} IS NOT (SELECT coalesce(max({number}), 0) + 1 FROM {table})
    BEGIN SELECT RAISE(ABORT, 'the audit log is only ever appended to'); END""",
)

# ALWAYS, because otherwise a session could switch off the triggers for itself.
_POSTGRESQL_TRIGGERS = (
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

_TRIGGERS = {"sqlite": _SQLITE_TRIGGERS, "postgresql": _POSTGRESQL_TRIGGERS}


def create_tables(connection: Connection) -> None:
    """Creates the tables and triggers that are missing."""
    _metadata.create_all(connection)
    for table, number in _NUMBERED.items():
        for trigger in _TRIGGERS[connection.dialect.name]:
            connection.exec_driver_sql(trigger.format(table=table, number=number))
