"""The interface described: `/openapi.json` for programs, `/docs` and `/docs/problems` for people.

All are open to everybody.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from flask import Blueprint, Flask, render_template
from werkzeug.wrappers import Response

from shared.web.documentation import groups, spans
from shared.web.openapi_parts import SCOPES
from shared.web.problems import CATALOGUE, PROBLEMS

Json = dict[str, Any]


def attach_interface(app: Flask, describe: Callable[[], Json]) -> None:
    """Adds them. `describe` is called once, when all calls are registered."""
    blueprint = Blueprint("interface", __name__)
    document = cache(describe)

    @blueprint.get("/openapi.json")
    def openapi() -> Response:
        return Response(json.dumps(document(), ensure_ascii=False), content_type="application/json")

    @blueprint.get("/docs")
    def docs() -> str:
        described = document()
        return render_template(
            "docs.html", info=described["info"], groups=groups(described), scopes=SCOPES, spans=spans
        )

    @blueprint.get(CATALOGUE)
    def problems() -> str:
        return render_template("problems.html", problems=PROBLEMS, spans=spans)

    app.register_blueprint(blueprint)
