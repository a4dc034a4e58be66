"""The least that Flask does: one route that answers JSON, served as `keyledger web` serves ours."""

import sys

from flask import Flask, Response, jsonify

from services.runtime.server import serve_application


def create_floor() -> Flask:
    """What each process of the floor begins with."""
    app = Flask("floor")

    @app.get("/")
    def empty() -> Response:
        return jsonify(ok=True)

    return app


if __name__ == "__main__":
    serve_application("bench.floor:create_floor", "127.0.0.1", int(sys.argv[1]))
