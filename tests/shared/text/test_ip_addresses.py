"""Every spelling of an IP address has one canonical form."""

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.text.ip_addresses import canonical_ip


@pytest.mark.parametrize(
    "text",
    [
        "198.51.100.7",
        " 198.51.100.7 ",
        "198.51.100.7:40001",
        "198.51.100.7:0",
        "[198.51.100.7]:443",
        "::ffff:198.51.100.7",
        "::FFFF:c633:6407",
        "[::ffff:198.51.100.7]:40001",
        "[::ffff:198.51.100.7%eth0]",
        "0:0:0:0:0:ffff:c633:6407",
    ],
)
def test_every_spelling_of_an_ipv4_address_has_the_same_canonical_form(text: str) -> None:
    assert canonical_ip(text) == "198.51.100.7"


@pytest.mark.parametrize(
    "text",
    [
        "2001:db8::7",
        "2001:DB8::7",
        "2001:0db8:0000:0000:0000:0000:0000:0007",
        "2001:db8:0:0::7",
        "[2001:db8::7]",
        "[2001:DB8::7]:40001",
        "2001:db8::7%eth0",
        "[2001:db8::7%25eth0]:443",
        "2001:db8::0.0.0.7",
    ],
)
def test_every_spelling_of_an_ipv6_address_has_the_same_canonical_form(text: str) -> None:
    assert canonical_ip(text) == "2001:db8::7"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "_hidden",
        "localhost",
        "example.com:80",
        "198.51.100",
        "198.51.100.256",
        "198.51.100.07",
        "198.51.100.7:",
        "198.51.100.7:port",
        "198.51.100.7:123456",
        "198.51.100.7%eth0",
        "198.51.100.7, 203.0.113.9",
        "198.51.100.0/24",
        "[2001:db8::7",
        "[[2001:db8::7]]",
        "2001:db8::7::1",
        "%eth0",
        "１９８.51.100.7",
        "3325256711",
        "\x00",
        "1" * 100_000,
        ":" * 100_000,
    ],
)
def test_text_that_is_not_an_ip_address_has_no_canonical_form(text: str) -> None:
    assert canonical_ip(text) is None


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_canonicalization_is_idempotent_and_drops_any_port(address: object, port: int) -> None:
    canonical = canonical_ip(str(address))

    assert canonical is not None
    assert canonical_ip(canonical) == canonical
    assert canonical_ip(f"[{address}]:{port}") == canonical
    assert isinstance(address, IPv6Address) or ip_address(canonical) == address
