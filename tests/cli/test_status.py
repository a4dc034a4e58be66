"""Exit statuses of the commands that report a reader's progress."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis import Redis

from services.audit.components import AuditComponents
from services.cli import main
from services.keys.components import KeyComponents
from shared.clock import now_ms
from shared.eventstore.ledger import Ledger
from shared.service.components import Container, SharedComponents
from shared.settings import Settings
from tests.shared.eventstore.test_export import toggled

Reader = tuple[str, Callable[[], object]]


@pytest.fixture
def ledger(store: Redis, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger that the commands are configured to use."""
    monkeypatch.setenv("KEYLEDGER_REDIS_URL", valkey_url)
    monkeypatch.setenv("KEYLEDGER_SECRET_KEY", "a secret of 32 characters at least")
    monkeypatch.setenv("KEYLEDGER_DATA_DIR", str(tmp_path))
    return Ledger(store)


@pytest.fixture(params=["projector", "audit"])
def reader(request: pytest.FixtureRequest, ledger: Ledger, valkey_url: str) -> Iterator[Reader]:
    """A reader's command and a function that lets the reader catch up."""
    settings = Settings.from_environment()
    if request.param == "projector":
        components = Container(SharedComponents(settings, valkey_url))
        yield "projector", components.of(KeyComponents).projector.catch_up
        components.shared.store.close()
        components.shared.waiting_store.close()
        return
    log = AuditComponents(SharedComponents(settings, valkey_url)).log
    yield "audit", lambda: log.append(ledger.read(0, 100))
    log.close()


def status(command: str) -> tuple[int, str]:
    """Returns the exit status and the output of a status command."""
    ended = CliRunner().invoke(main, [command, "status"])
    return ended.exit_code, ended.output


def wait_for(ledger: Ledger, ages_ms: list[int]) -> None:
    """Fills the ledger with events of these ages."""
    ledger.fill(0, [toggled(n, now_ms() - age - n) for n, age in enumerate(ages_ms, 1)])


def test_status_fails_when_an_event_has_waited_for_half_a_minute(
    ledger: Ledger, store: Redis, reader: Reader
) -> None:
    command, catch_up = reader
    assert status(command)[0] == 0
    wait_for(ledger, [25_000, 0])
    assert status(command)[0] == 0
    store.flushall()
    wait_for(ledger, [31_000, 0])
    assert status(command)[0] == 1
    catch_up()
    assert status(command)[0] == 0


def test_status_fails_with_more_than_a_thousand_unread_events(ledger: Ledger, reader: Reader) -> None:
    wait_for(ledger, [0] * 1_000)
    assert status(reader[0])[0] == 0
    ledger.fill(1_000, [toggled(1_001, now_ms())])
    assert status(reader[0])[0] == 1


def test_status_fails_after_the_ledger_went_backwards(ledger: Ledger, store: Redis, reader: Reader) -> None:
    command, catch_up = reader
    wait_for(ledger, [2, 1, 0])
    catch_up()
    store.delete(*store.keys("{kl:0}:log*"), *store.keys("{kl:0}:subject:*"))
    wait_for(ledger, [1])
    code, said = status(command)
    assert code == 1
    assert "THE LEDGER WENT BACKWARDS" in said
