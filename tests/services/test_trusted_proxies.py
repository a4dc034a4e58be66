"""What is trusted of the headers that proxies add, and what is refused."""

from typing import Any

import pytest

from shared.web.environ import FAILURE
from shared.web.proxies import TrustedProxies

FOR, PROTO, HOST = "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST"


def seen(proxies: int, **headers: str) -> dict[str, Any]:
    """The environment that an application behind so many proxies is given."""
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
        (1, {FOR: "[2001:db8::1]:4711", PROTO: "https", HOST: "keys.example"}, "[2001:db8::1]:4711"),
    ],
)
def test_the_trusted_entry_is_the_clients_address(
    proxies: int, headers: dict[str, str], address: str
) -> None:
    environ = seen(proxies, **headers)
    assert (environ["REMOTE_ADDR"], FAILURE in environ) == (address, False)


@pytest.mark.parametrize(
    ("proxies", "headers", "named"),
    [
        (1, {FOR: ""}, "X-Forwarded-For"),
        (1, {FOR: ","}, "X-Forwarded-For"),
        (1, {FOR: "198.51.100.7, unknown"}, "X-Forwarded-For"),
        (2, {FOR: "198.51.100.7"}, "1 of the 2 entries"),
        (2, {FOR: "made up, 198.51.100.7"}, "X-Forwarded-For"),
        (1, {FOR: "198.51.100.7", PROTO: ""}, "X-Forwarded-Proto"),
        (1, {HOST: ""}, "X-Forwarded-Host"),
    ],
)
def test_forwarded_headers_that_cannot_be_read_are_refused_by_name(
    proxies: int, headers: dict[str, str], named: str
) -> None:
    assert named in seen(proxies, **headers)[FAILURE].description
