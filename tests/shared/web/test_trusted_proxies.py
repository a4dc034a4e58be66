"""Trusted and rejected values in the headers that proxies add."""

from typing import Any

import pytest

from shared.web.server.context import FAILURE
from shared.web.server.proxies import TrustedProxies

FOR, PROTO, HOST = "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST"


def seen(proxies: int, **headers: str) -> dict[str, Any]:
    """Returns the WSGI environment of an application behind this number of proxies."""
    environ: dict[str, Any] = {"REMOTE_ADDR": "10.0.0.1", "wsgi.url_scheme": "http", **headers}
    TrustedProxies(lambda *_: [], proxies)(environ, lambda *_: lambda _: None)
    return environ


@pytest.mark.parametrize(
    ("proxies", "headers", "address"),
    [
        (1, {}, "10.0.0.1"),
        (1, {FOR: "198.51.100.7"}, "198.51.100.7"),
        (1, {FOR: "made up, , 198.51.100.7"}, "198.51.100.7"),
        (2, {FOR: "made up,198.51.100.7, 2001:db8::1"}, "198.51.100.7"),
        (1, {FOR: '"made up, 198.51.100.7'}, "198.51.100.7"),
        (1, {FOR: '203.0.113.1, "made up, 198.51.100.7'}, "198.51.100.7"),
        (2, {FOR: '"made up, 198.51.100.7, unix:'}, "198.51.100.7"),
        (1, {FOR: "[2001:db8::1]:4711", PROTO: "https", HOST: "keys.example"}, "[2001:db8::1]:4711"),
    ],
)
def test_the_client_ip_is_taken_from_the_trusted_entry(
    proxies: int, headers: dict[str, str], address: str
) -> None:
    environ = seen(proxies, **headers)
    assert (environ["REMOTE_ADDR"], FAILURE in environ) == (address, False)


@pytest.mark.parametrize(
    ("proxies", "headers", "scheme"),
    [
        (1, {PROTO: "https"}, "https"),
        (1, {PROTO: "HTTPS"}, "https"),
        (1, {PROTO: "http, wss"}, "https"),
        (1, {PROTO: '"http, https'}, "https"),
        (1, {PROTO: "https, ws"}, "http"),
        (2, {PROTO: "https"}, "https"),
        (2, {PROTO: "made up, https, http"}, "https"),
        (3, {PROTO: "https, http"}, "https"),
    ],
)
def test_the_scheme_is_read_regardless_of_how_many_proxies_report_it(
    proxies: int, headers: dict[str, str], scheme: str
) -> None:
    environ = seen(proxies, **headers)
    assert (environ["wsgi.url_scheme"], FAILURE in environ) == (scheme, False)


@pytest.mark.parametrize(
    ("proxies", "sent", "host"),
    [
        (1, "keys.example:8443", "keys.example:8443"),
        (1, "[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        (1, '"made up, keys.example', "keys.example"),
        (2, "keys.example", "keys.example"),
        (2, "made up, keys.example, inner:8000", "keys.example"),
    ],
)
def test_the_host_is_read_regardless_of_how_many_proxies_report_it(
    proxies: int, sent: str, host: str
) -> None:
    environ = seen(proxies, HTTP_X_FORWARDED_HOST=sent)
    assert (environ["HTTP_HOST"], FAILURE in environ) == (host, False)


@pytest.mark.parametrize(
    ("proxies", "headers", "named"),
    [
        (1, {FOR: ""}, "X-Forwarded-For"),
        (1, {FOR: ","}, "X-Forwarded-For"),
        (1, {FOR: "198.51.100.7, unknown"}, "X-Forwarded-For"),
        (2, {FOR: "198.51.100.7"}, "1 of the 2 entries"),
        (2, {FOR: "made up, 198.51.100.7"}, "X-Forwarded-For"),
        (1, {FOR: "198.51.100.7", PROTO: ""}, "X-Forwarded-Proto"),
        (1, {PROTO: "javascript"}, "X-Forwarded-Proto"),
        (1, {PROTO: '"https"'}, "X-Forwarded-Proto"),
        (1, {PROTO: "https, "}, "X-Forwarded-Proto"),
        (1, {HOST: ""}, "X-Forwarded-Host"),
        (1, {HOST: "keys.example/path"}, "X-Forwarded-Host"),
        (1, {HOST: "keys.example, "}, "X-Forwarded-Host"),
    ],
)
def test_an_invalid_forwarded_header_is_rejected_by_name(
    proxies: int, headers: dict[str, str], named: str
) -> None:
    assert named in seen(proxies, **headers)[FAILURE].description


def test_a_rejected_request_still_has_the_forwarded_scheme() -> None:
    environ = seen(1, HTTP_X_FORWARDED_FOR="unknown", HTTP_X_FORWARDED_PROTO="https")
    assert (environ["wsgi.url_scheme"], FAILURE in environ) == ("https", True)
