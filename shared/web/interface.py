"""The interface described: `/openapi.json` for programs, `/docs` for people. Both are open to everybody."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from flask import Blueprint, Flask, render_template
from werkzeug.wrappers import Response

from shared.web.documentation import groups, spans
from shared.web.openapi_parts import SCOPES

Json = dict[str, Any]


def attach_interface(app: Flask, describe: Callable[[], Json]) -> None:
    """Adds the two; `describe` is asked once, when all calls are there."""
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

    app.register_blueprint(blueprint)
