"""Runs tests with all audit logs in a temporary PostgreSQL.

Run `python -m tests.support.on_postgresql` with pytest's arguments.
"""

import os
import subprocess
import sys

from tests.support.postgresql import AUDIT_SERVER, postgresql_cluster


def main() -> int:
    """Returns the exit status of pytest."""
    with postgresql_cluster() as server:
        command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
        return subprocess.run(command, env=os.environ | {AUDIT_SERVER: server}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
