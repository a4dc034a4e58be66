"""An empty Flask route that returns JSON, served in the same way as `keyledger web`."""

import sys

from flask import Flask, Response, jsonify

from services.runtime.server import serve_application


def create_floor() -> Flask:
    app = Flask("floor")

    @app.get("/")
    def empty() -> Response:
        return jsonify(ok=True)

    return app


if __name__ == "__main__":
    serve_application("bench.floor:create_floor", "127.0.0.1", int(sys.argv[1]))
