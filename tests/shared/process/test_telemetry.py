"""What log lines contain and never contain, including those that libraries write."""

import json
import logging
import select
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from secrets import randbelow
from threading import Event as Stop
from threading import Thread

import pytest
import structlog

from services.accounts.passwords import Passwords
from services.audit.integrity.signer import Signer
from services.keys.model.token import ApiKey, mint
from shared.clock import now_ms, rfc3339
from shared.errors import UserFacingError
from shared.eventstore.envelope import Request
from shared.eventstore.ledger import VersionConflictError
from shared.identity import ForbiddenError, Principal
from shared.process.command_log import CommandLog, command
from shared.process.telemetry import configure_logs, redacted, together
from shared.store.connections import StoreUnavailableError
from tests.support.processes import until

PRINCIPAL = Principal(kind="key", id="abc", label="ci", workspace="default", scopes=frozenset())
REQUEST = Request(id="edge-1", ip=None, user_agent=None)


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Logging as in a process whose standard error, `capfd`, isn't a terminal."""
    capfd.readouterr()
    monkeypatch.delenv("KEYLEDGER_LOG_FORMAT", raising=False)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logs()
    yield
    root.handlers[:] = before
    root.setLevel(level)


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def raise_it(*secrets: str) -> None:
    raise ValueError(*secrets)


def key() -> ApiKey:
    return mint("kl", "default", randbelow)


def test_a_log_line_is_json_with_time_level_and_request_id(capfd: pytest.CaptureFixture[str]) -> None:
    with structlog.contextvars.bound_contextvars(request_id="edge-1"):
        structlog.get_logger().warning("store away", error="it is gone")
        logging.getLogger("a.library").warning("its own %s", "words")
    ours, theirs = lines(capfd)
    assert ours.pop("timestamp") <= theirs.pop("timestamp")  # type: ignore[operator]  # both are text
    assert ours == {"event": "store away", "error": "it is gone", "level": "warning", "request_id": "edge-1"}
    assert theirs == {"event": "its own words", "level": "warning", "request_id": "edge-1"}


def test_no_log_line_contains_a_secret_in_any_form(capfd: pytest.CaptureFixture[str]) -> None:
    made = key()
    token = made.reveal()
    password_hash = Passwords().hash_password("a long password")
    log = structlog.get_logger()
    log.info(
        "typed", token=made, nested={"deep": [token, token[:-1]]}, binary=token.encode(), named={token: 1}
    )
    log.info(token, url=f"redis://user:{'pass' * 4}@host:6379/0", hashed=password_hash)
    logging.getLogger("a.library").error("it got %s of %r", token, made)
    try:
        raise_it(token, password_hash)
    except ValueError:
        log.exception("with a traceback")
        logging.getLogger("a.library").exception("with another")
    written = capfd.readouterr().err
    assert written.count("\n") == 5
    for secret in (token, token[10:36], password_hash, password_hash.split("$")[-1], "passpass"):
        assert secret not in written
    assert made.hint[:7] in written
    assert "@host:6379/0" in written
    assert "Traceback" in written


def test_a_private_key_is_redacted(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("key") / "key.pem"
    _ = Signer(file).public_key
    text = json.dumps({"content": file.read_text()})
    body = file.read_text().splitlines()[1]
    assert body in text
    assert body not in redacted(text)


def test_text_without_secrets_is_not_redacted() -> None:
    words = "kl_3fA9…x7Qz at http://127.0.0.1:8000/keys?a=b@c, request 7f3a of position_1, " + "0f" * 32
    assert redacted(words) == words


@dataclass(frozen=True)
class Commands:
    """A class with a command."""

    log: CommandLog = field(default_factory=CommandLog)

    @command("try_it")
    def attempt(
        self, _: Principal, error: Exception | None, request: Request, result: object = True
    ) -> object:
        assert request
        if error:
            raise error
        return result


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (ForbiddenError(PRINCIPAL, "keyledger:admin"), "refused"),
        (VersionConflictError("key:a", 1, 2), "conflict"),
        (UserFacingError("Look again."), "refused"),
        (StoreUnavailableError("It is away."), "unavailable"),
        (KeyError("a mistake of ours"), "failed"),
    ],
)
def test_a_command_is_logged_once_with_its_outcome(
    capfd: pytest.CaptureFixture[str], error: Exception | None, outcome: str
) -> None:
    seen: list[tuple[str, str]] = []
    commands = Commands()
    commands.log.observers.append(
        lambda name, how, seconds: seen.append((name, how)) if seconds >= 0 else None
    )
    with pytest.raises(type(error)) if error else nullcontext():
        commands.attempt(PRINCIPAL, error, request=REQUEST)
    (line,) = lines(capfd)
    told = {"event": "try_it", "outcome": outcome, "actor": "abc", "workspace": "default"}
    assert told | {"request_id": "edge-1"} == {name: line[name] for name in (*told, "request_id")}
    assert line.get("error") == (type(error).__name__ if error else None)
    assert seen == [("try_it", outcome)]


def test_a_command_without_a_result_is_logged_as_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert Commands().attempt(PRINCIPAL, None, REQUEST, None) is None
    assert lines(capfd)[0]["outcome"] == "refused"


@pytest.fixture
def batching(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Commands, Callable[[], None]]]:
    """Yields commands whose log lines wait for a batch, and a function that ends the waiting."""
    monkeypatch.setattr("shared.process.command_log._BATCH_EVERY_S", 3600)
    stop, commands = Stop(), Commands()
    writer = Thread(target=commands.log.write_in_batches, args=(stop,))
    writer.start()
    until(commands.log._batching.is_set)

    def end() -> None:
        stop.set()
        writer.join()

    yield commands, end
    end()


def test_command_lines_are_written_in_batches_with_the_times_the_commands_ended(
    capfd: pytest.CaptureFixture[str], batching: tuple[Commands, Callable[[], None]]
) -> None:
    commands, end = batching
    earliest = rfc3339(now_ms())
    for number in range(100):
        commands.attempt(PRINCIPAL, None, Request(id=f"edge-{number}", ip=None, user_agent=None))
    latest = rfc3339(now_ms())
    assert lines(capfd) == []
    end()
    commands.attempt(PRINCIPAL, None, Request(id="edge-100", ip=None, user_agent=None))
    written = lines(capfd)
    assert [line["request_id"] for line in written] == [f"edge-{number}" for number in range(101)]
    assert all(earliest <= str(line["timestamp"]) <= latest for line in written[:100])


def test_flushing_the_command_log_writes_its_pending_lines(
    capfd: pytest.CaptureFixture[str], batching: tuple[Commands, Callable[[], None]]
) -> None:
    commands, _ = batching
    commands.attempt(PRINCIPAL, None, REQUEST)
    assert lines(capfd) == []
    commands.log.flush()
    assert [line["request_id"] for line in lines(capfd)] == ["edge-1"]


def test_lines_written_together_are_not_split_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[bytes] = []
    monkeypatch.setattr("os.write", lambda _, step: steps.append(step))
    log = structlog.get_logger()
    with together():
        for number in range(100):
            log.info("a line", number=number, long="x" * (number * 100))
        assert steps == []
    assert [json.loads(line)["number"] for line in b"".join(steps).splitlines()] == [*range(100)]
    assert all(step.endswith(b"\n") for step in steps)
    assert all(len(step) <= select.PIPE_BUF or step.count(b"\n") == 1 for step in steps)
    assert len(steps) < 90
