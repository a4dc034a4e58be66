"""Runs the tests of audit pages and endpoints again with the audit log on PostgreSQL."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.drill

# The tests that start a complete Keyledger. The audit log's own tests run on both databases anyway.
_MODULES = (
    "review",
    "forensics_pages",
    "audit_proof",
    "dashboard",
    "export_and_import",
    "backup_and_restore",
)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("postgresql_server")  # skips the test if PostgreSQL isn't installed
def test_the_service_works_with_its_audit_log_on_postgresql() -> None:
    modules = [f"tests/e2e/test_{name}.py" for name in _MODULES]
    command = [sys.executable, "-m", "tests.support.on_postgresql", "-q", "-m", "not drill", *modules]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    print(ended.stdout.splitlines()[-1])
    assert ended.returncode == 0, ended.stdout
