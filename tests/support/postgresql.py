"""A temporary PostgreSQL."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import psycopg.sql

from tests.support.processes import need


class PostgreSQL:
    """A temporary PostgreSQL cluster. Its directory also contains its socket."""

    def __init__(self, directory: str) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
        self._pg_ctl = Path(need(str(found[-1]) if found else shutil.which("pg_ctl"), "postgresql"))
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._directory = directory

    def make(self) -> None:
        """Creates the cluster, accessible only to its user."""
        if self._user:
            shutil.chown(self._directory, self._user)
        self._run(
            "initdb",
            "--username=keyledger",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )

    def start(self) -> None:
        """Starts it, and waits until it accepts connections."""
        options = f"-k {self._directory} -c listen_addresses='' -c fsync=off -c max_connections=100"
        self._run("pg_ctl", "--wait", f"--log={self._directory}/log", f"--options={options}", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stops it, immediately or in another mode of `pg_ctl`."""
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._pg_ctl.with_name(program)), "-D", f"{self._directory}/data", *arguments]
        subprocess.run(command, user=self._user, cwd=self._directory, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def postgresql_cluster() -> Iterator[str]:
    """Runs a PostgreSQL cluster, and yields the directory of its socket."""
    with tempfile.TemporaryDirectory(prefix="kl-pg-", ignore_cleanup_errors=True) as directory:
        cluster = PostgreSQL(directory)
        cluster.make()
        cluster.start()
        try:
            yield directory
        finally:
            cluster.stop()


# The directory of a PostgreSQL socket. If it's set, the services under test keep their audit log there.
AUDIT_SERVER = "TESTS_AUDIT_POSTGRESQL"


def _audit_database(data_dir: Path) -> dict[str, str]:
    """Returns the settings for PostgreSQL if the tests use it, with one database per data directory."""
    server = os.environ.get(AUDIT_SERVER)
    if server is None:
        return {}
    name = f"of_{hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]}"
    with (
        psycopg.connect(f"postgresql://keyledger@/postgres?host={server}", autocommit=True) as admin,
        suppress(psycopg.errors.DuplicateDatabase),
    ):
        admin.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    return {"KEYLEDGER_AUDIT_DATABASE_URL": f"postgresql://keyledger@/{name}?host={server}"}
