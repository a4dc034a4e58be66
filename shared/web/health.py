"""Whether the service is alive, whether it is ready, and its figures for Prometheus."""

from collections.abc import Callable, Iterable, Mapping

from flask import Blueprint, Flask, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from werkzeug.wrappers import Response

Check = Callable[[], str | None]  # what is wrong; None where nothing is


class Figures(Collector):
    """Figures that are read when they are asked for, so that every process gives the same."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """What prometheus-client calls."""
        return self._read()


def attach_health(app: Flask, checks: Mapping[str, Check], figures: Callable[[], Iterable[Metric]]) -> None:
    """`/healthz`: the process answers. `/readyz`: 200 if every check passes, else 503 that says which.

    `/metrics`: the figures, as Prometheus reads them.
    """
    blueprint = Blueprint("health", __name__)
    registry = CollectorRegistry()
    registry.register(Figures(figures))

    @blueprint.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    @blueprint.get("/healthz")
    def alive() -> Response:
        return jsonify(status="ok")

    @blueprint.get("/readyz")
    def ready() -> tuple[Response, int]:
        wrong = {name: trouble for name, check in checks.items() if (trouble := check()) is not None}
        body = jsonify(status="not ready" if wrong else "ready", wrong=wrong)
        return body, 503 if wrong else 200

    app.register_blueprint(blueprint)
