"""Failures that affect `/readyz` or only `/statusz`, and what either reveals to strangers."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from structlog.testing import capture_logs

from services.doctor.examination import all_checks
from services.keys.components import KeyComponents
from services.runtime.checks import CheckRunner
from services.runtime.manifests import MANIFESTS
from services.runtime.metrics import sources
from shared.clock import now_ms
from shared.service.checks import Check, Concern, ok, problem, skipped
from shared.service.components import Container
from shared.service.metrics import Polled
from shared.web.health import Report, attach_health
from tests.shared.eventstore.test_export import toggled
from tests.support.application import application
from tests.support.examinations import configured
from tests.support.installations import close, components_in
from tests.support.principals import REQUEST, new_key, principal

CANARY = "c4nary"  # of what nobody may read who has no key
NOWHERE = f"postgresql://me:{CANARY}@/{CANARY}?host=/nowhere"
Making = Callable[..., Container]


@pytest.fixture
def making(store: Redis, valkey_url: str, tmp_path: Path) -> Iterator[Making]:
    """Creates the components of a web process that follows the ledger of an empty store."""
    assert not store.dbsize()
    made: list[Container] = []

    def make(url: str = valkey_url, database: str | None = None, ack_replicas: int = 0) -> Container:
        components = components_in(tmp_path / CANARY, url, database, ack_replicas)
        made.append(components)
        with suppress(Exception):
            components.of(KeyComponents).invalidator.step(1)
        return components

    yield make
    for components in made:
        close(components)


def found(components: Container, concern: Concern) -> Report:
    """Runs the checks of a concern and returns the report."""
    watch = CheckRunner(components, all_checks(MANIFESTS), concern, 1.0)
    watch.look()
    return watch.report()


def wrong(components: Container, concern: Concern = Concern.WEB) -> set[str]:
    """Returns the names of the failed checks."""
    return {*found(components, concern).wrong}


def test_an_unavailable_database_and_late_views_do_not_fail_web_readiness(making: Making) -> None:
    components = making(database=NOWHERE)
    components.shared.ledger.fill(0, [toggled(1, now_ms() - 60_000)])
    made = components.of(KeyComponents).keys.commands.create(principal(), new_key(name="Served"), REQUEST)
    components.of(KeyComponents).invalidator.step(1)
    assert wrong(components) == set()
    assert made.api_key
    assert components.of(KeyComponents).verifier(made.api_key.reveal()).code == "VALID"
    assert {"database", "views"} <= wrong(components, Concern.STATUS)
    assert wrong(components, Concern.AUDIT_WEB) == {"database"}


def test_a_process_with_all_dependencies_is_ready_and_lists_its_checks(making: Making) -> None:
    components = making()
    assert found(components, Concern.WEB).checks.keys() == {"store", "writes", "verifier"}
    assert found(components, Concern.AUDIT_WEB).checks.keys() == {"store", "verifier", "database"}
    assert wrong(components) == wrong(components, Concern.AUDIT_WEB) == set()
    status = found(components, Concern.STATUS).checks
    assert {"views", "audit log", "worker", "clock", "integrity"} <= status.keys()


def test_the_cost_of_health_checks_does_not_grow_with_the_number_of_keys(
    making: Making, store: Redis
) -> None:
    components = making()

    def bytes_read(keys: int) -> int:
        for number in range(keys):
            components.of(KeyComponents).keys.commands.create(
                principal(), new_key(name=f"Key {number}"), REQUEST
            )
        components.of(KeyComponents).projector.catch_up()
        components.of(KeyComponents).invalidator.step(1)
        watch = CheckRunner(components, all_checks(MANIFESTS), Concern.STATUS | Concern.WEB, 1.0)
        before = store.info("stats")["total_net_output_bytes"]
        watch.look()
        Polled(components, sources(MANIFESTS)).read()
        return int(store.info("stats")["total_net_output_bytes"] - before)

    of_one = bytes_read(1)
    assert bytes_read(500) < of_one + 1_000  # a row has some 300 bytes


def test_an_unavailable_store_fails_the_readiness_of_both_applications(making: Making) -> None:
    components = making(f"unix:///nowhere/{CANARY}.sock")
    for concern in (Concern.WEB, Concern.AUDIT_WEB):
        assert {"store", "verifier"} <= wrong(components, concern)


def test_a_process_that_stopped_following_the_ledger_is_not_ready(making: Making) -> None:
    components = making()
    components.of(KeyComponents).invalidator.subscription.caught_up_at = time.monotonic() - 60
    assert wrong(components) == {"verifier"}
    assert wrong(components, Concern.AUDIT_WEB) == {"verifier"}


def test_a_store_out_of_memory_does_not_fail_readiness(making: Making, store: Redis) -> None:
    components = making()
    with configured(store, maxmemory=str(store.info("memory")["used_memory"] // 2)):
        assert wrong(components) == wrong(components, Concern.AUDIT_WEB) == set()
        assert "memory" in wrong(components, Concern.STATUS)
    assert wrong(components) == set()


def test_missing_replicas_do_not_fail_readiness(making: Making) -> None:
    components = making(ack_replicas=1)
    assert wrong(components) == set()
    assert "replicas" in wrong(components, Concern.STATUS)


@pytest.mark.parametrize("rights", ["-@write", "-xadd", "~other:*"])
def test_a_process_whose_store_user_cannot_write_is_not_ready(
    making: Making, store: Redis, valkey_url: str, rights: str
) -> None:
    commands = ["+@all", rights] if rights.startswith("-") else ["+@all"]
    keys = ["other:*"] if rights.startswith("~") else ["*"]
    store.acl_setuser("reader", enabled=True, nopass=True, channels=["*"], commands=commands, keys=keys)
    try:
        url = valkey_url.replace("unix://", "unix://reader:any@")
        assert "writes" in wrong(making(url))
    finally:
        store.acl_deluser("reader")


def test_health_reports_leak_no_urls_paths_or_names(making: Making) -> None:
    away = making(f"unix:///nowhere/{CANARY}.sock", database=NOWHERE)
    for concern in (Concern.WEB, Concern.AUDIT_WEB, Concern.STATUS):
        report = found(away, concern)
        assert report.wrong
        assert CANARY not in json.dumps(report)
        assert "nowhere" not in json.dumps(report)


def test_a_failing_check_and_its_recovery_are_each_logged_once(making: Making) -> None:
    findings = [ok("well")]
    check = Check("store", lambda _: iter(findings), Concern.WEB, "It fails.", "keyledger-is-not-ready")
    watch = CheckRunner(making(), [check], Concern.WEB, 1.0)
    with capture_logs() as lines:
        for findings[0] in (
            problem("not started yet", "Wait."),
            ok("well"),
            problem("broken", "Fix it."),
            problem("broken", "Fix it."),
            skipped("away"),
            problem("broken", "Fix it."),
            problem("broken", "Fix it."),
            ok("well"),
            ok("well"),
        ):
            watch.look()
    assert [(line["event"], line["check"], line.get("reason")) for line in lines] == [
        ("check failed", "store", "broken"),
        ("check passed again", "store", None),
    ]


def test_checks_that_never_finish_are_reported_as_a_problem(making: Making) -> None:
    assert CheckRunner(making(), [], Concern.WEB, 1.0).report().wrong == {
        "checks": "The checks don't finish."
    }


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    """A client of the whole application with an unreachable store and no background checks."""
    return application().test_client()


@pytest.mark.parametrize(("path", "status"), [("/readyz", 503), ("/statusz", 503), ("/metrics", 200)])
def test_health_and_metrics_endpoints_do_not_connect_to_the_store(
    client: FlaskClient, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("redis.connection.AbstractConnection.connect", lambda *_: asked.append(_))
    for _ in range(20):
        assert client.get(path).status_code == status
    assert asked == []


def test_each_health_endpoint_returns_503_if_a_check_fails() -> None:
    app = Flask("health")
    good, bad = Report({"store": "ok"}, {}), Report({"store": "problem"}, {"store": "It's away."})
    reports = {"/readyz": good, "/statusz": good}
    attach_health(app, lambda: reports["/readyz"], lambda: reports["/statusz"], [])
    client = app.test_client()
    for path, words in {"/readyz": ("ready", "not ready"), "/statusz": ("ok", "problem")}.items():
        for report, status, word in ((good, 200, words[0]), (bad, 503, words[1])):
            reports[path] = report
            answer = client.get(path)
            assert (answer.status_code, answer.json) == (status, {"status": word, **report._asdict()})
        assert answer.headers["Cache-Control"] == "no-store"
    assert client.get("/healthz").status_code == 200


def test_a_stale_metric_is_not_exposed(making: Making) -> None:
    polled = Polled(making(), sources(MANIFESTS))
    assert "keyledger_audit_lag_seconds" not in {metric.name for metric in polled.collect()}
    polled.read()
    assert "keyledger_audit_lag_seconds" in {metric.name for metric in polled.collect()}
    polled._read_at -= 60
    assert "keyledger_audit_lag_seconds" not in {metric.name for metric in polled.collect()}
