"""Runs tests with the audit log of each Keyledger in a PostgreSQL of their own.

`python -m tests.on_postgresql`, with what pytest is to be told.
"""

import os
import subprocess
import sys

from tests.real import AUDIT_SERVER, postgresql_cluster


def main() -> int:
    """The exit status of pytest."""
    with postgresql_cluster() as server:
        command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
        return subprocess.run(command, env=os.environ | {AUDIT_SERVER: server}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
