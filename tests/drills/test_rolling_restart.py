"""Every process of the deployment is restarted under load: nothing acknowledged is lost, no verdict is wrong.

Clients of nginx notice nothing, except that some requests fail while the store itself is down.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event as Stop

import pytest
import requests

from shared.eventstore.codec import decode
from shared.eventstore.events import KeyToggled
from shared.eventstore.ledger import Ledger
from shared.store.connections import connect
from tests.support.deployment import Deployment, deployed
from tests.support.platform_load import Client, Load, Outcome
from tests.support.processes import until

pytestmark = [pytest.mark.drill, pytest.mark.alone, pytest.mark.timeout(240)]

SECONDS = 60.0
RATE = 300.0  # requests per second: 90% verify, 8% read, 2% are commands
APART_S = 2.0  # seconds between two restarts
ENDS_WITHIN = 10.0
RESTARTED = (
    *("web-1", "web-2", "audit-web", "projector", "audit-relay", "audit-worker"),
    *("gateway", "database", "store"),
)
Window = tuple[float, float]


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory(prefix="kl-") as directory, deployed(Path(directory)) as running:
        yield running


@pytest.fixture
def load(deployment: Deployment) -> Load:
    token = deployment.run("key", "create", "platform", "--scope", "keyledger:admin").stdout.strip()
    made = Load(lambda: Client(deployment.ports["gateway"], deployment.certificate, token), RATE)
    made.make(steady=20, off=5, switched=8)
    return made


def test_restarting_each_process_under_load_loses_nothing(deployment: Deployment, load: Load) -> None:
    began = time.monotonic()
    with load:
        away = restart_each(deployment)
        Stop().wait(began + SECONDS - time.monotonic())
    tell(load, away, began)
    assert [outcome.wrong for outcome in load.outcomes if outcome.wrong] == []
    assert unexcused(load.outcomes, away) == []
    assert len(load.outcomes) > 0.9 * RATE * SECONDS
    account_for(deployment, load)


def restart_each(deployment: Deployment) -> dict[str, Window]:
    """Returns when each was down: from its stop until everything was ready again."""
    away = {}
    for name in RESTARTED:
        Stop().wait(APART_S)
        ended = time.monotonic()
        if name == "gateway":
            deployment.reload_gateway()
            took = 0.0
        else:
            took = deployment.end(name)
            deployment.start(name)
        deployment.wait_for(name)
        until(lambda: is_ready(deployment), 30, "readiness")
        away[name] = ended, time.monotonic()
        print(f"{name:13} ended within {took:.2f} s, was back after {away[name][1] - ended:.2f} s")
        assert took < ENDS_WITHIN
    return away


def is_ready(deployment: Deployment) -> bool:
    return requests.get(f"{deployment.local_url}/readyz", timeout=10).status_code == 200


def unexcused(outcomes: Sequence[Outcome], away: dict[str, Window]) -> list[Outcome]:
    """Returns the errors other than 502 and 503 while the store was down."""
    gone, back = away["store"]

    def is_excused(outcome: Outcome) -> bool:
        return outcome.status in {502, 503} and gone <= outcome.answered and outcome.asked <= back

    return [each for each in outcomes if each.status not in {200, 201} and not is_excused(each)]


def account_for(deployment: Deployment, load: Load) -> None:
    """Asserts that each acknowledged key is once in the ledger, the views and the audit log."""
    with connect(deployment.store_url) as store:
        events = [decode(record) for record in Ledger(store).read(0, 10**6)]
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    created = [(event.data.name, event.subject) for event in events if event.type == "KeyCreated"]
    acknowledged = [(name, f"key:{key_id}") for name, key_id in load.created.items()]
    assert sorted(created[1:]) == sorted(acknowledged)  # the first one is the load's own key
    switched: dict[str, list[bool]] = {}
    for event in events:
        if isinstance(event.data, KeyToggled):
            switched.setdefault(event.subject, []).append(event.data.enabled)
    asked = {f"key:{key.id}": [change.enabled for change in key.changes] for key in load.keys if key.changes}
    assert switched == asked
    commands = len(load.created) + sum(map(len, asked.values()))
    print(f"{len(events)} events of {commands} acknowledged commands: none lost, none doubled")
    until(lambda: "0 events not yet" in deployment.run("audit", "check").stdout, 30, "the audit log")
    for command in (("audit", "check"), ("replay", "--check"), ("projector", "status"), ("audit", "status")):
        ended = deployment.run(*command)
        print(f"keyledger {' '.join(command)}: {ended.stdout.splitlines()[-1]}")
        assert ended.returncode == 0, ended.stdout + ended.stderr


def tell(load: Load, away: dict[str, Window], began: float) -> None:
    """Prints the measurements."""
    outcomes = load.outcomes
    seconds = max(outcome.answered for outcome in outcomes) - began
    print(f"{len(outcomes):,} requests in {seconds:.0f} s: {dict(Counter(each.kind for each in outcomes))}")
    print(f"{load.closed_meanwhile} kept connections were found closed by nginx's reload")
    for kind in ("verify", "read", "audit", "command"):
        took = sorted(each.answered - each.asked for each in outcomes if each.kind == kind)
        print(
            f"{kind:8}" + ", ".join(f"{name} {1000 * at(took):.1f} ms" for name, at in _PERCENTILES.items())
        )
    print(f"wrong verdicts: {sum(each.wrong is not None for each in outcomes)}")
    for name, (start, end) in away.items():
        during = [each for each in outcomes if start <= each.asked <= end]
        errors = Counter((each.kind, each.status) for each in during if each.status not in {200, 201})
        late = max((each.answered - each.asked for each in during), default=0.0)
        print(f"during {name:13} {len(during):5} asked, longest {1000 * late:.0f} ms, errors {dict(errors)}")
    other = Counter(each.status for each in unexcused(outcomes, away))
    print(f"other errors: {dict(other)}")


_PERCENTILES: dict[str, Callable[[Sequence[float]], float]] = {
    "p50": lambda took: took[len(took) // 2],
    "p99": lambda took: took[len(took) * 99 // 100],
    "longest": lambda took: took[-1],
}
