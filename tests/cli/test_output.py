"""Command output: one-time secrets are never lost, and control characters are escaped."""

import errno
import json
import os
import pwd
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog import get_logger

from services.accounts.components import AccountComponents
from services.audit.components import AuditComponents
from services.audit.ingest.job import catch_up
from services.audit.integrity.findings import Finding, Kind
from services.cli import main
from services.cli.terminal import operator, request
from services.keys.queries import Keys
from services.runtime import output
from shared.eventstore.ledger import Ledger
from shared.process.telemetry import configure_logs, escaped
from shared.service.components import Container, SharedComponents
from shared.settings import Settings
from shared.store.connections import connect
from shared.store.embedded import EmbeddedServer
from tests.support.installations import close, components_in
from tests.support.service import KEYLEDGER

OWNER = "owner@example.org"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory with a running store and one account."""
    directory = tmp_path_factory.mktemp("data")
    server = EmbeddedServer.in_directory(directory)
    with server.joined():
        components = components_in(directory, server.url)
        components.of(AccountComponents).accounts.add(
            operator("default"), OWNER, "owner", "a long password", request()
        )
        components.shared.store.close()
        yield directory


@pytest.fixture
def ledger(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger in that directory. Commands run in this process use it too."""
    monkeypatch.setenv("KEYLEDGER_DATA_DIR", str(data_dir))
    with connect(EmbeddedServer.found_in(data_dir).url) as store:
        yield Ledger(store)


def run(*words: str) -> Result:
    """Runs a command in this process."""
    return CliRunner().invoke(main, words, input="a long password\n")


def made(*options: str) -> str:
    """Creates a key and returns its ID."""
    ended = run("key", "create", "Made", "--json", *options)
    assert ended.exit_code == 0, ended.output
    found: str = json.loads(ended.stdout)["id"]
    return found


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["> /dev/full", ">&-", "1< /dev/null", ">&- 2>&- <&-"])
def test_no_key_is_created_if_its_secret_cannot_be_printed(ledger: Ledger, place: str) -> None:
    before = ledger.head()
    command = ["/bin/sh", "-c", f"exec {KEYLEDGER} key create Lost {place}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "2>&-" in place or re.fullmatch(r"Error: [^\n]*Nothing was done[^\n]*\n", ended.stderr)
    assert ledger.head() == before


@pytest.mark.parametrize(("words", "said"), [("create Lost", "Nothing was done"), ("list", "")])
def test_a_command_with_a_closed_output_pipe_changes_nothing(ledger: Ledger, words: str, said: str) -> None:
    before = ledger.head()
    reading, writing = os.pipe()
    os.close(reading)
    command = [KEYLEDGER, "key", *words.split()]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert ended.returncode == 1
    assert (said in ended.stderr) if said else ended.stderr == ""
    assert ledger.head() == before


@pytest.mark.parametrize(
    "words", ["key create Lost", "key create Lost --json", "key rotate {key}", f"account password {OWNER}"]
)
def test_commands_that_print_a_secret_change_nothing_if_output_fails(
    ledger: Ledger, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = shlex.split(words.format(key=made()))
    before = ledger.head()
    monkeypatch.setattr(output, "_try_to_write", no_room)
    ended = run(*command)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith(
        "Error: Standard output can't be written (No space left on device). Nothing was done"
    )
    assert ledger.head() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("key create Lost", "was created, but its secret is lost: rotate it with `keyledger key rotate "),
        ("key rotate {key} --json", "Key {key} was rotated, but its secret is lost: rotate it with"),
        ("key disable {key}", "Done: Made (kl_"),
        ("key revoke {key} --json", ") is revoked."),
        (f"account password {OWNER}", f"The password of {OWNER} was changed, but couldn't be printed. Run"),
        (f"account role {OWNER} owner", f"Done: {OWNER} is enabled"),
        (
            "account add new@example.org --role auditor --password-stdin",
            "Done: Added new@example.org to “default”",
        ),
    ],
)
@pytest.mark.usefixtures("ledger")
def test_a_completed_change_is_reported_on_stderr_if_output_fails(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = made()
    monkeypatch.setattr(output, "_write", no_room)
    ended = run(*shlex.split(words.format(key=key)))
    assert (ended.exit_code, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert said.format(key=key) in line
    assert "kl_" not in line.replace("(kl_", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("replay", "Done: The views were rebuilt to position "),
        ("audit reindex", "Done: The search index is complete."),
        ("audit checkpoint", " was signed, and is in the audit log."),
        ("audit check --acknowledge", "; acknowledged cut off "),
    ],
)
def test_completed_maintenance_is_reported_on_stderr_if_output_fails(
    ledger: Ledger, data_dir: Path, words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    components = components_in(data_dir, EmbeddedServer.found_in(data_dir).url)
    catch_up(components.of(AuditComponents).log, components.shared.ledger)
    components.of(AuditComponents).notary.sign_checkpoint()
    components.of(AuditComponents).alarms.report(Finding(Kind.CUT_OFF, 1, "by a test"))
    before = ledger.head().position
    monkeypatch.setattr(output, "_write", no_room)
    ended = run(*words.split())
    assert (ended.exit_code, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert said in line
    if "check " in words:
        assert ledger.head().position == before + 2  # with the alarm, and without
        assert components.of(AuditComponents).alarms.current() is None
    close(components)


@pytest.mark.parametrize(
    "command", ["--help > /dev/full", "key --help > /dev/full", "doctor > /dev/full", "doctor >&-"]
)
def test_a_failure_to_print_a_report_is_a_one_line_error(tmp_path: Path, command: str) -> None:
    environment = os.environ | {"KEYLEDGER_DATA_DIR": str(tmp_path)}
    ended = subprocess.run(
        ["/bin/sh", "-c", f"exec {KEYLEDGER} {command}"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ended.returncode == 1
    assert re.fullmatch(r"Error: [^\n]*\n", ended.stderr)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain größe 中文\u3000🔑", "plain größe 中文\u3000🔑"),
        ("\x1b[31mred\x9b0m", "\\x1b[31mred\\x9b0m"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("gnp\u202efdp", "gnp\\u202efdp"),
        ("\udcff\u200b\u2028", "\\udcff\\u200b\\u2028"),
    ],
)
def test_control_and_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.usefixtures("ledger")
def test_characters_outside_the_terminals_encoding_are_escaped(encoding: str) -> None:
    name = "größe 中文"
    ended = CliRunner(charset=encoding).invoke(main, ["key", "create", name, "--json"])
    assert json.loads(ended.stdout)["name"] == name
    key = json.loads(ended.stdout)["id"]
    for words in (["list"], ["disable", key], ["enable", key]):
        ended = CliRunner(charset=encoding).invoke(main, ["key", *words], terminal_width=200)
        assert ended.exit_code == 0, ended.exception
        assert name.encode(encoding, "backslashreplace").decode(encoding) in ended.stdout


@pytest.mark.usefixtures("ledger")
def test_control_characters_in_stored_names_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older version or an import may have stored such names in the ledger."""
    made()
    page = Keys.page

    def forged(*arguments: Any) -> Any:
        found = page(*arguments)
        return found._replace(keys=[_named(key, "\x1b[2J\nred") for key in found.keys])

    monkeypatch.setattr(Keys, "page", forged)
    ended = run("key", "list")
    assert "\x1b" not in ended.stdout
    assert "\\x1b[2J\\nred" in ended.stdout
    assert "\x1b" not in run("key", "list", "--json").stdout


def _named(key: Any, name: str) -> Any:
    return type(key)(**{field: getattr(key, field) for field in key.__struct_fields__} | {"name": name})


@pytest.mark.usefixtures("ledger")
def test_control_characters_in_arguments_are_escaped_in_errors() -> None:
    ended = run("key", "disable", "no\x1b[31mkey\nError: all is well")
    assert ended.exit_code == 1
    assert ended.stderr.startswith("Error: There is no key no\\x1b[31mkey")
    assert "\x1b" not in ended.output


def test_log_lines_contain_no_terminal_control_characters(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEYLEDGER_LOG_FORMAT", "text")
    configure_logs()
    try:
        Path("\x1b[2J").stat()
    except FileNotFoundError:
        get_logger("test").exception("failed", name="\x1b[31mred", other="two\nlines")
    told = capfd.readouterr().err
    assert "\x1b" not in told
    assert "\\x1b[31mred" in told
    assert "two\\nlines" in told
    assert "\\x1b[2J" in told
    assert len(told.splitlines()) > 1


def test_the_operator_name_comes_from_the_system_not_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody else")
    assert operator("default").id == pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    assert operator("default").id == "uid 54321"


ELSEWHERE = [
    *("key create n", "key list", "key disable 000000000000", "account list", "audit reindex"),
    *("account add a@b.c --role owner --password-stdin", "web", "projector", "projector status", "replay"),
    *("audit web", "audit relay", "audit worker", "audit status", "audit public-key", "audit checkpoint"),
    *("audit check", "audit export x", "export", "backup x"),
]


@pytest.mark.parametrize("words", ELSEWHERE)
def test_commands_without_a_keyledger_report_it_and_create_nothing(
    tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYLEDGER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    ended = run(*words.split())
    assert ended.exit_code == 1
    assert ended.stderr.startswith(
        f"Error: There is no Keyledger in {tmp_path}/data: run `keyledger up` to create one"
    )
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "words",
    [
        *("key create n", "key list", "key enable 000000000000", "key disable 000000000000"),
        *("key rotate 000000000000", "key revoke 000000000000", "account list", f"account disable {OWNER}"),
        *(f"account role {OWNER} owner", f"account enable {OWNER}", f"account password {OWNER}"),
    ],
)
def test_a_workspace_without_accounts_is_rejected(ledger: Ledger, words: str) -> None:
    before = ledger.head()
    ended = run(*words.split(), "--workspace", "nosuch")
    assert ended.exit_code == 1
    assert ended.stderr.startswith(
        "Error: There is no workspace 'nosuch': check the name, or create it: `keyledger account add`."
    )
    assert ledger.head() == before


@pytest.mark.usefixtures("ledger")
def test_adding_the_first_account_creates_the_workspace() -> None:
    words = ("account", "add", "first@acme.example", "--role", "owner", "--password-stdin")
    assert run(*words, "--workspace", "acme").exit_code == 0
    assert made("--workspace", "acme")


def test_the_first_owner_is_not_created_if_the_password_cannot_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.runtime.up import _welcome

    with EmbeddedServer.in_directory(tmp_path).joined():
        monkeypatch.setenv("KEYLEDGER_DATA_DIR", str(tmp_path))
        components = Container(
            SharedComponents(Settings.from_environment(), EmbeddedServer.found_in(tmp_path).url)
        )
        monkeypatch.setattr(output, "_try_to_write", no_room)
        with pytest.raises(output.OutputError, match="Nothing was done"):
            _welcome(components)
        assert components.shared.ledger.head().position == 0
        components.shared.store.close()
