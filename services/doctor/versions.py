"""What runs here. The versions of store and database are told where these are asked."""

import platform
from collections.abc import Iterator
from importlib.metadata import version

from services.doctor.findings import Finding, ok
from services.doctor.installation import Installation


def check_versions(_: Installation) -> Iterator[Finding]:
    """Keyledger's, and Python's."""
    yield ok(f"Keyledger {version('keyledger')} on Python {platform.python_version()}")
