"""The endpoints for operators: liveness, readiness, status and metrics."""

import os
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import NamedTuple

from flask import Blueprint, Flask, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from werkzeug.wrappers import Response


class Report(NamedTuple):
    """The level of each check, and what is wrong, in words that anyone may read."""

    checks: Mapping[str, str]
    wrong: Mapping[str, str]


def attach_health(
    app: Flask,
    readiness: Callable[[], Report],
    status: Callable[[], Report],
    collectors: Iterable[Collector],
) -> None:
    """Attaches the endpoints for operators, which need no key and wait for no store or database.

    `/healthz`: the process answers. `/readyz`: 200 if it can do its work, else 503. `/statusz`: the same for
    everything around it. `/metrics`: what the collectors return, and what all processes that share
    PROMETHEUS_MULTIPROC_DIR counted.
    """
    blueprint = Blueprint("health", __name__)
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it publishes no types

    writing = Lock()  # one at a time: a scrape takes long and needs no key

    @blueprint.get("/metrics")
    def metrics() -> Response:
        with writing:
            return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    @blueprint.get("/healthz")
    def alive() -> Response:
        return jsonify(status="ok")

    @blueprint.get("/readyz")
    def ready() -> tuple[Response, int]:
        return _answer(readiness(), "ready", "not ready")

    @blueprint.get("/statusz")
    def statusz() -> tuple[Response, int]:
        return _answer(status(), "ok", "problem")

    app.register_blueprint(blueprint)


def _answer(report: Report, passing: str, failing: str) -> tuple[Response, int]:
    status = failing if report.wrong else passing
    body = jsonify(status=status, checks=report.checks, wrong=report.wrong)
    body.headers["Cache-Control"] = "no-store"
    return body, 503 if report.wrong else 200
