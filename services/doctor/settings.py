"""The settings: invalid values, unknown names and risky choices; and the versions that run."""

import os
import platform
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import version

from services.doctor.access import is_loopback
from shared.service.checks import Finding, ok, warning
from shared.service.installation import Installation
from shared.settings import SETTINGS, Settings

_PREFIX = "KEYLEDGER_"
_KNOWN = {f"{_PREFIX}{name}{suffix}" for name in SETTINGS for suffix in ("", "_FILE")}


def check_settings(installation: Installation) -> Iterator[Finding]:
    """Checks whether each setting exists, is valid, and is safe."""
    named = sorted(name for name in os.environ if name.startswith(_PREFIX) and os.environ[name])
    findings = [
        *installation.unusable,
        *map(_unknown, sorted({*named} - _KNOWN)),
        *_risks(installation.settings),
    ]
    yield from findings or [ok(f"{', '.join(named)} set, the rest by default" if named else "all by default")]


def _unknown(name: str) -> Finding:
    near = get_close_matches(name, _KNOWN, n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return warning(f"{name} isn't a setting, and has no effect", f"{meant}Correct the name, or unset it.")


def _risks(settings: Settings) -> Iterator[Finding]:
    if settings.allow_unsafe_store:
        yield warning(
            "KEYLEDGER_ALLOW_UNSAFE_STORE is set: a store that could lose events is accepted",
            "Unset it in production.",
        )
    if not settings.trusted_proxies and not is_loopback(settings.host):
        yield warning(
            f"the web processes listen on {settings.host}, and trust no proxy: keys may travel unencrypted",
            "Put a proxy with TLS in front, and set KEYLEDGER_TRUSTED_PROXIES to the number of proxies.",
        )


def check_versions(_: Installation) -> Iterator[Finding]:
    """Reports Keyledger's and Python's version; the store and the database report their own."""
    yield ok(f"Keyledger {version('keyledger')} on Python {platform.python_version()}")
