"""A slow application. `/stream` sends its response in chunks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SECONDS = 0.1
PARTS, PART = 30, b"0123456789"


def create() -> WSGIApplication:
    """Creates the application in a worker."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/stream":
            return _components()
        time.sleep(SECONDS)
        return [environ["wsgi.input"].read()]

    return application


def _components() -> Iterator[bytes]:
    for _ in range(PARTS):
        time.sleep(0.1)
        yield PART
