"""The check of the disks that this machine writes to. Those of a separate store aren't visible here."""

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
    """Checks the disks of the embedded store and of the audit log's file."""
    file = installation.of(AuditInspection).database_file
    places = {installation.settings.data_dir: bool(installation.embedded)} | (
        {file.parent: True} if file else {}
    )
    for place in (place for place, is_used in places.items() if is_used):
        there = next(parent for parent in [place, *place.parents] if parent.exists())
        usage = shutil.disk_usage(there)
        yield room(place, usage.free, usage.total)


def room(place: Path, free: int, total: int) -> Finding:
    """Describes a disk with so many free bytes."""
    found = f"{decimal(free)} of {decimal(total)} are free at {place}"
    if free < _FULL:
        return problem(found, "Free some space now: without it no event can be written, and the store stops.")
    if free < _SCARCE or free < _SCARCE_SHARE * total:
        return warning(found, "Free some space soon, or move the data directory: the ledger only ever grows.")
    return ok(found)
