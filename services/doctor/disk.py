"""Room on the disks that this machine writes to. Those of a store of one's own it cannot see."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from services.audit.monitoring.inspection import AuditInspection
from shared.service.checks import Finding, ok, problem, warning
from shared.service.installation import Installation

_FULL = 64 * 1024**2  # bytes
_SCARCE = 1024**3  # bytes
_SCARCE_SHARE = 0.1


def check_disk(installation: Installation) -> Iterator[Finding]:
    """Where the embedded store lies, and the file of the audit log."""
    file = installation.of(AuditInspection).database_file
    places = {installation.settings.data_dir: bool(installation.embedded)} | (
        {file.parent: True} if file else {}
    )
    for place in (place for place, is_used in places.items() if is_used):
        there = next(parent for parent in [place, *place.parents] if parent.exists())
        usage = shutil.disk_usage(there)
        yield room(place, usage.free, usage.total)


def room(place: Path, free: int, total: int) -> Finding:
    """What is to be said of a disk with so many bytes free."""
    found = f"{decimal(free)} of {decimal(total)} are free at {place}"
    if free < _FULL:
        return problem(found, "Make room now: without it no event can be written, and the store ends.")
    if free < _SCARCE or free < _SCARCE_SHARE * total:
        return warning(found, "Make room soon, or move the data directory: the ledger only ever grows.")
    return ok(found)
