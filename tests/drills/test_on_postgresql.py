"""What shows the audit log to people and programs, once more with the log on PostgreSQL."""

import os
import subprocess
import sys

import pytest

from tests.real import AUDIT_SERVER

pytestmark = pytest.mark.drill

# Those that start a whole Keyledger and look at its audit log. The tests of the log itself are on both.
_MODULES = ("review", "inquiry_pages", "audit_proof", "dashboard")
_OF_SQLITE = "test_a_stream_that_fails_says_so_at_its_end"  # it puts a text where bytes are


@pytest.mark.timeout(300)
def test_the_service_works_with_its_audit_log_on_postgresql(postgresql_server: str) -> None:
    modules = [f"tests/e2e/test_{name}.py" for name in _MODULES]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not drill", "-k", f"not {_OF_SQLITE}"]
    ended = subprocess.run(
        [*command, *modules],
        env=os.environ | {AUDIT_SERVER: postgresql_server},
        capture_output=True,
        text=True,
        check=False,
    )
    print(ended.stdout.splitlines()[-1])
    assert ended.returncode == 0, ended.stdout
