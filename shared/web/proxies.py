"""What trusted proxies in front report of a client: its IP address, whether it used TLS, and the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.exceptions import BadRequest
from werkzeug.middleware.proxy_fix import ProxyFix

from shared.ip_addresses import canonical_ip
from shared.web.environ import FAILURE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class TrustedProxies(ProxyFix):
    """Trusts the last `count` entries of the forwarded headers, and refuses a request if they can't be read.

    Otherwise the client would be recorded, counted and limited as the proxy. A request without these headers
    came from the proxy itself, as its health checks do.
    """

    def __init__(self, behind: WSGIApplication, count: int) -> None:
        super().__init__(behind, x_for=count, x_proto=count, x_host=count)
        self._count = count

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if flaw := self._flaw(environ):
            environ.setdefault(FAILURE, BadRequest(f"{flaw} Correct the configuration of the proxy."))
        return super().__call__(environ, start_response)

    def _flaw(self, environ: WSGIEnvironment) -> str | None:
        forwarded_for: str | None = environ.get("HTTP_X_FORWARDED_FOR")
        # granian gives a header as empty if it isn't ASCII.
        for name in ("For", "Proto", "Host"):
            if environ.get(f"HTTP_X_FORWARDED_{name.upper()}") == "":
                return f"The header X-Forwarded-{name} is empty or has characters outside ASCII."
        if forwarded_for is None:
            return None
        entries = forwarded_for.split(",")
        if len(entries) < self._count:
            return (
                f"The header X-Forwarded-For has {len(entries)} of the {self._count} entries that "
                "KEYLEDGER_TRUSTED_PROXIES expects."
            )
        if not all(map(canonical_ip, entries[-self._count :])):
            return "The header X-Forwarded-For has an entry that isn't an IP address."
        return None
