"""Whether the service is alive, and whether it is ready."""

from collections.abc import Callable, Mapping

from flask import Blueprint, Flask, jsonify
from werkzeug.wrappers import Response

Check = Callable[[], str | None]  # what is wrong; None where nothing is


def attach_health(app: Flask, checks: Mapping[str, Check]) -> None:
    """`/healthz`: the process answers. `/readyz`: 200 if every check passes, else 503 that says which."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    def alive() -> Response:
        return jsonify(status="ok")

    @blueprint.get("/readyz")
    def ready() -> tuple[Response, int]:
        wrong = {name: trouble for name, check in checks.items() if (trouble := check()) is not None}
        body = jsonify(status="not ready" if wrong else "ready", wrong=wrong)
        return body, 503 if wrong else 200

    app.register_blueprint(blueprint)
