"""Errors as `application/problem+json` (RFC 9457), in one shape for every call."""

from collections.abc import Iterator, Mapping, Sequence
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


def field_errors(messages: object, path: str = "") -> Iterator[dict[str, str]]:
    """marshmallow's nested messages, one row a message; a list's items are named `scopes.0`."""
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            yield from field_errors(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(messages, Sequence) and not isinstance(messages, str):
        for message in messages:
            yield from field_errors(message, path)
    else:
        yield {"field": path, "message": str(messages)}
