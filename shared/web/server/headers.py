"""The security headers of every answer, in the one place that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

Headers: TypeAlias = Sequence[tuple[str, str]]

_OVER_HTTP: Headers = (
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
)
_OVER_TLS: Headers = (*_OVER_HTTP, ("Strict-Transport-Security", "max-age=31536000"))


def security_headers(environ: WSGIEnvironment) -> Headers:
    """Those for the answer to a request, which came by TLS or not as far as trusted proxies say.

    The gateway's own answers have the same: deploy/nginx.conf. What granian refuses before it asks
    the application (400 and 414) has none.
    """
    return _OVER_TLS if environ.get("wsgi.url_scheme") == "https" else _OVER_HTTP
