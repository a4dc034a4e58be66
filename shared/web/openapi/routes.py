"""The API reference: `/openapi.json` for programs, `/docs` and `/docs/problems` for people.

All are open to everybody.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from flask import Blueprint, Flask, render_template
from werkzeug.wrappers import Response

from shared.identity import SCOPES
from shared.web.errors.problems import CATALOGUE, PROBLEMS
from shared.web.openapi.docs_page import groups, spans

Json = dict[str, Any]


def attach_interface(app: Flask, describe: Callable[[], Json]) -> None:
    """Adds these routes. `describe` is called once, after all operations are registered."""
    blueprint = Blueprint("interface", __name__)
    document = cache(describe)

    # Each is rendered once: they are large, and asked for without a key.
    @cache
    def document_text() -> str:
        return json.dumps(document(), ensure_ascii=False)

    @cache
    def documentation_page() -> str:
        described = document()
        return render_template(
            "docs.html", info=described["info"], groups=groups(described), scopes=SCOPES, spans=spans
        )

    @cache
    def problems_page() -> str:
        return render_template("problems.html", problems=PROBLEMS, spans=spans)

    @blueprint.get("/openapi.json")
    def openapi() -> Response:
        return Response(document_text(), content_type="application/json")

    @blueprint.get("/docs")
    def docs() -> str:
        return documentation_page()

    @blueprint.get(CATALOGUE)
    def problems() -> str:
        return problems_page()

    app.register_blueprint(blueprint)
