"""Whether the service is alive, whether it is ready, and its figures for Prometheus."""

import os
from collections.abc import Callable, Iterable, Mapping

from flask import Blueprint, Flask, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from werkzeug.wrappers import Response


class Figures(Collector):
    """Figures that are read when they are asked for, so that every process gives the same."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """What prometheus-client calls."""
        return self._read()


def attach_health(
    app: Flask, troubles: Callable[[], Mapping[str, str | None]], figures: Callable[[], Iterable[Metric]]
) -> None:
    """`/healthz`: the process answers. `/readyz`: 200 if nothing is in trouble, else 503 that says what is.

    `/metrics`: the figures, and what all processes counted that share PROMETHEUS_MULTIPROC_DIR, as Prometheus
    reads them. `troubles` has None for what is well.
    """
    blueprint = Blueprint("health", __name__)
    registry = CollectorRegistry()
    registry.register(Figures(figures))
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it publishes no types

    @blueprint.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    @blueprint.get("/healthz")
    def alive() -> Response:
        return jsonify(status="ok")

    @blueprint.get("/readyz")
    def ready() -> tuple[Response, int]:
        wrong = {name: trouble for name, trouble in troubles().items() if trouble is not None}
        body = jsonify(status="not ready" if wrong else "ready", wrong=wrong)
        return body, 503 if wrong else 200

    app.register_blueprint(blueprint)
