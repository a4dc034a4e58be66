"""E-mail addresses as they are compared and stored. Pure.

An international domain (IDNA 2008, mapped by UTS 46) has two spellings: `münchen.example` and, as browsers
send it, `xn--mnchen-3ya.example`. The readable one is stored.
"""

import unicodedata

import idna

_DOMAIN_LENGTH = 253  # characters of a domain name; a longer one isn't worth the work of mapping
_DOTS = ".\u3002\uff0e\uff61"  # those that UTS 46 takes for one


def normalized(email: str) -> str:
    """One form of an address: without blanks around it, case folded, in NFC, its domain in readable spelling.

    A dot at the end of the domain is left out. A domain that isn't valid is only folded. Normalizing twice
    changes nothing more.
    """
    local, at, domain = _split(email)
    return _folded(local) + at + (_readable(domain) if at else _folded(domain))


def spellings(email: str) -> tuple[str, ...]:
    """The forms under which the same address may have been stored, as typed first.

    An address with a plain domain has only one.
    """
    local, at, domain = _split(email)
    if not at or not is_international(domain):
        return (normalized(email),)
    readable = _readable(domain)
    domains = [_nfc(domain.lower()), readable, _ascii(readable) or readable]
    return tuple(dict.fromkeys(f"{_folded(local)}@{spelling}" for spelling in domains))


def folded(email: str) -> str:
    """The form used before domains were mapped. It confused some domains: `straße.example` with `strasse`."""
    return _folded(email.strip())


def is_international(domain: str) -> bool:
    """Whether a domain is internationalized, or looks like it."""
    return not domain.isascii() or "xn--" in domain.lower()


def is_valid_domain(domain: str) -> bool:
    """Whether a domain is plain or a valid international one."""
    return not is_international(domain) or _ascii(domain) is not None


def _split(email: str) -> tuple[str, str, str]:
    local, at, domain = email.strip().rpartition("@")
    while at and (shorter := domain.rstrip(_DOTS).rstrip()) != domain:
        domain = shorter
    return local, at, domain


def _readable(domain: str) -> str:
    if not is_international(domain):
        return domain.lower()
    ascii_form = _ascii(domain)
    if ascii_form is not None:
        return idna.decode(ascii_form)
    by_folding = _folded(domain)
    return by_folding if by_folding == domain else _readable(by_folding)


def _ascii(domain: str) -> str | None:
    if len(domain) > _DOMAIN_LENGTH:
        return None
    try:
        # A dot at the end may appear only by mapping.
        return idna.encode(domain, uts46=True).decode().rstrip(".")
    except UnicodeError:  # every error of the library is one
        return None


def _folded(text: str) -> str:
    # Folding can take a text out of NFC, so it is brought there again.
    return _nfc(_nfc(text).casefold())


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
