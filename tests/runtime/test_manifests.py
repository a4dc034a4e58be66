"""A manifest is all that a service needs to add features; processes import only what they need."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from flask import Blueprint, render_template
from redis import Redis

from services.cli import Keyledger
from services.doctor.examination import all_checks, look
from services.runtime import manifests, up, web
from services.runtime.manifests import MANIFESTS
from services.runtime.metrics import metric_rows, sources
from shared.identity import ADMIN
from shared.service.checks import Check, Concern, Finding, ok
from shared.service.components import Container, SharedComponents
from shared.service.installation import Installation
from shared.service.manifest import Background, Manifest, NavigationItem, Program
from shared.service.metrics import Gauge, Polled, Source
from shared.settings import Settings
from shared.web.registration import Web
from tests.support.installations import components_in
from tests.support.principals import principal


@dataclass(frozen=True)
class GreeterComponents:
    """The components of an example service."""

    shared: SharedComponents

    @cached_property
    def greeting(self) -> str:
        return f"Hello from {self.shared.settings.key_prefix}"


def greets(installation: Installation) -> Iterator[Finding]:
    yield ok(GreeterComponents(installation.shared).greeting)


def attach(web: Web) -> None:
    blueprint = Blueprint("greeter", __name__)
    greeting = web.components.of(GreeterComponents).greeting
    blueprint.add_url_rule("/greeting", view_func=lambda: greeting, endpoint="greeting")
    web.app.register_blueprint(blueprint)


@click.command("greet")
def greet_command() -> None:
    """Greet."""
    click.echo("Hello")


GREETER = Manifest(
    name="greeter",
    commands={"greet": __name__},
    programs=(Program("greeter", ["greet"]),),
    checks=lambda: (Check("greeting", greets, Concern.DOCTOR, "Never.", "keyledger-is-not-ready"),),
    metrics=lambda: (
        Source(
            lambda components: components.of(GreeterComponents).greeting,
            (Gauge("keyledger_greeting_length", "How long the greeting is.", len),),
        ),
    ),
    background=lambda _: (Background(lambda _: None),),
    web=attach,
    navigation=(NavigationItem("greeter.greeting", "key", "Greeting", ADMIN),),
)
ALL = (*MANIFESTS, GREETER)


def test_a_manifest_adds_a_command() -> None:
    keyledger = Keyledger("keyledger", manifests=ALL)
    assert "greet" in keyledger.list_commands(click.Context(keyledger))
    assert CliRunner().invoke(keyledger, ["greet"]).output == "Hello\n"


def test_a_manifest_adds_a_check_and_a_metric(store: Redis, valkey_url: str, tmp_path: Path) -> None:
    assert not store.dbsize()
    components = components_in(tmp_path, valkey_url)
    installation = Installation(components.shared.settings, valkey_url, process=components)
    checks = [check for check in all_checks(ALL) if check.name == "greeting"]
    assert [*look(installation, checks, Concern.DOCTOR)] == [("greeting", ok("Hello from kl"))]
    polled = Polled(components, sources(ALL))
    polled.read()
    values = {metric.name: metric.samples[0].value for metric in polled.collect() if metric.samples}
    assert values["keyledger_greeting_length"] == len("Hello from kl")
    (row,) = [row for row in metric_rows(ALL) if "greeting" in row.name]
    assert row.processes == "web, greeter"


def test_a_manifest_adds_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MANIFESTS", ALL)
    monkeypatch.setattr(web, "_run_in_background", lambda _: None)
    monkeypatch.setenv("KEYLEDGER_SECRET_KEY", "s" * 32)
    components = Container(SharedComponents(Settings.from_environment(), "unix:///nowhere.sock"))
    app = web.build_web(components, ALL, home="keys.list_keys", ready=Concern.WEB)
    assert app.test_client().get("/greeting").text == "Hello from kl"
    with app.test_request_context("/greeting"):
        app.preprocess_request()
        page = render_template("navigation.html", principal=principal())
    assert '<a href="/greeting" aria-current="page">' in " ".join(page.split())


def test_a_manifest_adds_a_process_with_its_own_metrics_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "MANIFESTS", ALL)
    monkeypatch.setenv("KEYLEDGER_METRICS_PORT", "9100")
    processes = {process.name: process for process in up._programs(Settings.from_environment())}
    assert [*processes] == ["projector", "relay", "worker", "greeter", "web"]
    assert [*processes["greeter"].argv[-1:]] == ["greet"]
    ports = [(process.env or {})["KEYLEDGER_METRICS_PORT"] for process in processes.values()]
    assert ports[:4] == ["9100", "9101", "9102", "9103"]


def test_each_service_is_listed_once() -> None:
    source = Path(manifests.__file__).read_text()
    assert [manifest.name for manifest in MANIFESTS] == ["keys", "audit", "accounts"]
    assert source.count("services.") == len(MANIFESTS)


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        ("services.cli", {"flask", "sqlalchemy", "rq", "argon2", "granian", "prometheus_client"}),
        ("services.cli.views", {"flask", "sqlalchemy", "rq", "argon2", "granian", "prometheus_client"}),
        ("services.cli.audit", {"flask", "argon2", "prometheus_client"}),
        ("services.keys.components", {"flask", "sqlalchemy", "rq", "argon2"}),
        ("services.keys.monitoring", {"flask", "sqlalchemy", "rq", "argon2"}),
        ("services.audit.components", {"flask", "argon2", "granian"}),
        ("services.audit.ingest.worker", {"flask", "argon2", "granian"}),
    ],
)
def test_modules_do_not_import_dependencies_that_they_do_not_need(modules: str, unneeded: set[str]) -> None:
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} & unneeded == set()
