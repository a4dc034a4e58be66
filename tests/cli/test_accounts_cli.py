"""Account commands at the command line."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from services.cli import main


@pytest.fixture
def environment(store: Redis, valkey_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a Keyledger with an empty store."""
    store.flushall()
    return {
        "KEYLEDGER_DATA_DIR": str(tmp_path),
        "KEYLEDGER_REDIS_URL": valkey_url,
        "KEYLEDGER_SECRET_KEY": "s" * 32,
    }


def test_the_operator_is_warned_when_a_workspace_is_left_without_an_owner(
    environment: dict[str, str],
) -> None:
    def account(*arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, ["account", *arguments], input=stdin, env=environment)
        assert result.exit_code == 0, result.output
        return result

    for email in ("ada@example.com", "bob@example.com"):
        account("add", email, "--role", "owner", "--password-stdin", stdin="correct horse battery\n")
    warning = "Workspace default has no owner now."
    assert warning not in account("role", "ada@example.com", "developer").stderr
    assert warning in account("disable", "bob@example.com").stderr
    assert warning in account("role", "ada@example.com", "auditor").stderr
    assert warning not in account("role", "ada@example.com", "owner").stderr
