"""Reads the client's IP address, scheme and host from the headers of trusted proxies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.exceptions import BadRequest

from shared.text.ip_addresses import canonical_ip
from shared.web.server.context import FAILURE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Some proxies report a WebSocket's handshake by its own scheme.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_HOST = re.compile(r"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class TrustedProxies:
    """Trusts the last `count` entries of the forwarded headers, and refuses a request if they can't be read.

    Otherwise the client would be recorded, counted and limited as the proxy. A request without these headers
    came from the proxy itself, as its health checks do. Entries are separated by commas only: quotation
    marks mean nothing, since a client could open one that hides what the proxies append.
    """

    def __init__(self, behind: WSGIApplication, count: int) -> None:
        self._behind = behind
        self._count = count

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for variable, reported in (
            ("wsgi.url_scheme", self._scheme),
            ("HTTP_HOST", self._host),
            ("REMOTE_ADDR", self._client),
        ):
            try:
                environ[variable] = reported(environ) or environ.get(variable, "")
            except ValueError as flaw:
                environ.setdefault(FAILURE, BadRequest(f"{flaw} Correct the configuration of the proxy."))
        return self._behind(environ, start_response)

    def _client(self, environ: WSGIEnvironment) -> str | None:
        entries = _entries(environ, "For")
        if not entries:
            return None
        if len(entries) < self._count:
            raise ValueError(
                f"The header X-Forwarded-For has {len(entries)} of the {self._count} entries that "
                "KEYLEDGER_TRUSTED_PROXIES expects."
            )
        # The entries after it are proxies, which needn't have an IP address: one may use a Unix socket.
        client = entries[-self._count]
        if not canonical_ip(client):
            raise ValueError("The header X-Forwarded-For has an entry that isn't an IP address.")
        return client

    def _scheme(self, environ: WSGIEnvironment) -> str | None:
        entry = self._outermost(environ, "Proto")
        if entry is not None and entry.lower() not in _SCHEMES:
            raise ValueError("The header X-Forwarded-Proto has an entry that is neither http nor https.")
        return None if entry is None else _SCHEMES[entry.lower()]

    def _host(self, environ: WSGIEnvironment) -> str | None:
        entry = self._outermost(environ, "Host")
        if entry is not None and not _HOST.fullmatch(entry):
            raise ValueError("The header X-Forwarded-Host has an entry that isn't a host.")
        return entry

    def _outermost(self, environ: WSGIEnvironment, name: str) -> str | None:
        """What the outermost of the trusted proxies reported, or else the one that replaced it."""
        # Proxies append to a header or replace it, so there may be fewer entries than proxies.
        return next(iter(_entries(environ, name)[-self._count :]), None)


def _entries(environ: WSGIEnvironment, name: str) -> list[str]:
    header: str | None = environ.get(f"HTTP_X_FORWARDED_{name.upper()}")
    if header == "":  # granian gives a header as empty if it isn't ASCII
        raise ValueError(f"The header X-Forwarded-{name} is empty or has characters outside ASCII.")
    return [] if header is None else [entry.strip() for entry in header.split(",")]
