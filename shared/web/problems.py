"""Errors as `application/problem+json` (RFC 9457), in one shape for every call."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from flask import Response, g, json


def problem(
    status: int,
    detail: str,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error that says what to do next. `errors` has `field` and `message` for each bad field."""
    body: dict[str, Any] = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": g.request_id,
    }
    if errors:
        body["errors"] = list(errors)
    response = Response(json.dumps(body), status, headers, content_type="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    return response
