"""Whether the service is alive, whether it is ready, its current status, and its figures for Prometheus."""

import os
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import NamedTuple

from flask import Blueprint, Flask, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from werkzeug.wrappers import Response


class Report(NamedTuple):
    """The level of each check, and what is wrong, in words that everybody may read."""

    checks: Mapping[str, str]
    wrong: Mapping[str, str]


class Metrics(Collector):
    """Metrics that are read when they are asked for, so that every process gives the same."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """What prometheus-client calls."""
        return self._read()


def attach_health(
    app: Flask,
    readiness: Callable[[], Report],
    status: Callable[[], Report],
    figures: Callable[[], Iterable[Metric]],
) -> None:
    """The endpoints for operators, which ask for no key. None of them waits for a store or a database.

    `/healthz`: the process answers. `/readyz`: 200 if it can do its work, else 503. `/statusz`: the same of
    everything around it. `/metrics`: the figures, and what all processes counted that share
    PROMETHEUS_MULTIPROC_DIR, as Prometheus reads them.
    """
    blueprint = Blueprint("health", __name__)
    registry = CollectorRegistry()
    registry.register(Metrics(figures))
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it publishes no types

    writing = Lock()  # one at a time, for they take long to write and are asked for without a key

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


def _answer(report: Report, good: str, bad: str) -> tuple[Response, int]:
    status = bad if report.wrong else good
    body = jsonify(status=status, checks=report.checks, wrong=report.wrong)
    body.headers["Cache-Control"] = "no-store"
    return body, 503 if report.wrong else 200
