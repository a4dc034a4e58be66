"""Operations: metrics aggregated over all processes, and log lines that trace a request."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from services.runtime.manifests import MANIFESTS
from services.runtime.metrics import metric_rows
from tests.documents import ALERTS
from tests.support.processes import children, free_ports, until
from tests.support.service import Service

PROGRAMS = ("projector", "relay", "worker")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    odd = tmp_path_factory.mktemp("data") / "a b%20?mode=ro#ü"  # a URL would take it apart
    service = Service(
        odd,
        KEYLEDGER_LOG_FORMAT="json",
        KEYLEDGER_HOST="localhost",
        KEYLEDGER_METRICS_PORT=str(free_ports(len(PROGRAMS))),
    )
    service.start()
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="module")
def headers(running: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.key('keyledger:admin')}"}


def exposed(service: Service, process: str) -> str:
    """The metrics of a process."""
    url = service.url
    if process in PROGRAMS:
        first = int(service.environment["KEYLEDGER_METRICS_PORT"])
        url = f"http://127.0.0.1:{first + PROGRAMS.index(process)}"
    return requests.get(f"{url}/metrics", timeout=60).text


def figures(service: Service, process: str = "web") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = exposed(service, process)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figure(service: Service, name: str, **labels: str) -> float:
    return figures(service).get((name, frozenset(labels.items())), 0.0)


def lines(service: Service, program: str) -> list[dict[str, Any]]:
    found = re.findall(rf"(?m)^{program} +\| (\{{.*\}})$", service.output)
    return [json.loads(line) for line in found]


def test_metrics_of_all_web_processes_are_summed(running: Service, headers: dict[str, str]) -> None:
    codes = Counter({"VALID": 30, "MALFORMED": 20})
    route = {"method": "POST", "route": "/v1/keys/verify", "status": "200"}
    counted = "keyledger_http_request_duration_seconds_count"
    before = {code: figure(running, "keyledger_verdicts_total", code=code) for code in codes}
    requests_before = figure(running, counted, **route)
    token = headers["Authorization"].partition(" ")[2]
    for code in codes.elements():  # each on a connection of its own, which any of the processes may get
        body = {"api_key": token if code == "VALID" else "no key"}
        answer = requests.post(f"{running.url}/v1/keys/verify", json=body, headers=headers, timeout=60)
        assert answer.json()["code"] == code
    for _ in range(10):  # whoever answers
        for code, count in codes.items():
            assert figure(running, "keyledger_verdicts_total", code=code) - before[code] == count
        assert figure(running, counted, **route) - requests_before == codes.total()
    assert len(children(running.pid("services.cli", "web"))) > 1


@pytest.mark.parametrize("process", ["web", *PROGRAMS])
def test_each_process_exposes_exactly_its_documented_metrics(
    running: Service, headers: dict[str, str], process: str
) -> None:
    assert "intact" in running.run("audit", "check").stdout  # its metrics are left out before the first check
    documented = {row.name for row in metric_rows(MANIFESTS) if process in row.processes.split(", ")}

    def names() -> set[str]:
        requests.post(f"{running.url}/v1/keys", headers=headers, json={"name": "A"}, timeout=60)
        families = text_string_to_metric_families(exposed(running, process))
        return {f"{each.name}_total" if each.type == "counter" else each.name for each in families}

    until(lambda: names() == documented)


def test_a_process_reports_its_position_and_its_last_error(running: Service) -> None:
    head = figure(running, "keyledger_ledger_position")
    for process, position in {"projector": "projector", "relay": "audit", "worker": "audit"}.items():
        name = f"keyledger_{position}_position"
        until(partial(_is_at, running, process, name, head))
        found = figures(running, process)["keyledger_process_last_error_timestamp_seconds", frozenset()]
        assert 0 <= found <= time.time()


def _is_at(service: Service, process: str, name: str, position: float) -> bool:
    return figures(service, process).get((name, frozenset()), 0) >= position


def test_commands_are_counted_by_kind_and_outcome(running: Service, headers: dict[str, str]) -> None:
    def counted(command: str, outcome: str) -> float:
        return figure(running, "keyledger_commands_total", command=command, outcome=outcome)

    url = f"{running.url}/v1/keys"
    before = counted("create_key", "done"), counted("change_key", "refused")
    made = requests.post(url, json={"name": "Counted"}, headers=headers, timeout=60).json()
    requests.patch(f"{url}/000000000000", json={"enabled": False}, headers=headers, timeout=60)
    assert (counted("create_key", "done"), counted("change_key", "refused")) == (before[0] + 1, before[1] + 1)
    stale = requests.patch(
        f"{url}/{made['id']}", json={"enabled": False}, headers=headers | {"If-Match": '"9"'}, timeout=5
    )
    assert stale.status_code == 412
    assert counted("change_key", "conflict") == 1
    assert figure(running, "keyledger_command_duration_seconds_count", command="create_key") >= 1


def test_unknown_routes_and_methods_create_no_new_metric_labels(running: Service) -> None:
    for number in range(5):
        requests.request(f"ODD{number}", f"{running.url}/nowhere/{number}", timeout=60)
    labels = [dict(labels) for _, labels in figures(running)]
    assert not [each for each in labels if "nowhere" in each.get("route", "")]
    assert not [each for each in labels if each.get("method", "").startswith("ODD")]
    assert [each for each in labels if (each.get("method"), each.get("route")) == ("other", "none")]


def test_a_request_id_can_be_traced_from_the_edge_to_the_audit_log(
    running: Service, headers: dict[str, str]
) -> None:
    edge = headers | {"X-Request-Id": "edge-7c1.a_b"}
    made = requests.post(f"{running.url}/v1/keys", json={"name": "Followed"}, headers=edge, timeout=60)
    assert made.headers["X-Request-Id"] == "edge-7c1.a_b"
    key_id = made.json()["id"]
    history = requests.get(f"{running.url}/v1/keys/{key_id}/history", headers=headers, timeout=60).json()
    assert [event["request"]["id"] for event in history["events"]] == ["edge-7c1.a_b"]

    def commands() -> list[dict[str, Any]]:
        return [line for line in lines(running, "web") if line.get("request_id") == "edge-7c1.a_b"]

    def jobs() -> list[dict[str, Any]]:
        return [line for line in lines(running, "worker") if "edge-7c1.a_b" in line.get("requests", [])]

    until(lambda: commands() and jobs(), what="the lines of the command and of the job")
    (command,) = commands()
    assert (command["event"], command["outcome"], command["level"]) == ("create_key", "done", "info")
    address = f"{running.url}/v1/audit/entries?key_id={key_id}"
    entries = requests.get(address, headers=headers, timeout=60).json()["entries"]
    assert [entry["request"]["id"] for entry in entries] == ["edge-7c1.a_b"]


def test_alerts_use_only_existing_metrics(running: Service, headers: dict[str, str]) -> None:
    assert running.run("audit", "check").returncode == 0
    requests.post(f"{running.url}/v1/keys", json={"name": "Any"}, headers=headers, timeout=60)
    requests.post(f"{running.url}/v1/keys/verify", json={"api_key": "no key"}, headers=headers, timeout=60)
    asked = {name for rule in ALERTS for name in re.findall(r"keyledger_\w+", rule["expr"])}
    assert len(asked) >= 15
    until(lambda: asked <= {name for name, _ in figures(running)}, what="every figure that an alert asks for")
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_alerts_use_only_existing_labels(running: Service, headers: dict[str, str]) -> None:
    requests.get(f"{running.url}/v1/forward-auth", headers=headers, timeout=60)
    values: dict[str, set[str]] = {}
    for _, labels in figures(running):
        for name, value in labels:
            values.setdefault(name, set()).add(value)
    values["outcome"] = {"done", "refused", "conflict", "unavailable", "failed"}
    values["command"] |= {"sign_in"}
    values["status"] |= {"503"}
    for rule in ALERTS:
        for name, sign, pattern in re.findall(r"(\w+)(=~?)\"([^\"]+)\"", rule["expr"]):
            for alternative in pattern.split("|") if sign == "=~" else [pattern]:
                assert any(re.fullmatch(alternative, value) for value in values[name]), (rule["alert"], name)


def _passes(service: Service, check: str) -> bool:
    return figure(service, "keyledger_status", check=check) == 1


def test_every_check_is_exposed_as_a_metric_and_passes(running: Service) -> None:
    for check in ("store", "writes", "verifier"):
        assert figure(running, "keyledger_ready", check=check) == 1
    for check in ("store", "memory", "clock", "views", "audit log", "worker", "integrity"):
        until(partial(_passes, running, check), what=check)
    assert figure(running, "keyledger_disk_free_bytes") > 0
    assert figure(running, "keyledger_store_memory_bytes") > 0
