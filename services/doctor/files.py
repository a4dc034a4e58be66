"""The check of the files that hold secrets: whether they exist, are valid, and are closed to others."""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE

from services.audit.integrity.signer import SigningError
from services.audit.monitoring.inspection import AuditInspection
from shared.service.checks import Finding, ok, problem, warning
from shared.service.installation import Installation
from shared.store.embedded import is_made

_OTHERS = 0o007
_GROUP = 0o070


def check_files(installation: Installation) -> Iterator[Finding]:
    """Checks the data directory, the key that signs for the audit log, and the web processes' secret."""
    settings = installation.settings
    if installation.embedded or not (settings.audit_database_url and settings.audit_key_file):
        yield from _data_directory(settings.data_dir, holds_store=not settings.redis_url)
    yield from _audit_key(installation)
    if installation.embedded:
        yield from _exposed(settings.data_dir / "secret_key")


def _data_directory(data_dir: Path, *, holds_store: bool) -> Iterator[Finding]:
    exists = data_dir.exists()
    if exists and not data_dir.is_dir():
        yield problem(f"{data_dir} isn't a directory", "Set KEYLEDGER_DATA_DIR to one.")
    elif exists and not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        yield problem(f"this user can't open {data_dir}", "Run this as the user that runs Keyledger.")
    elif holds_store and not is_made(data_dir):
        yield warning(
            f"there is no Keyledger in {data_dir}",
            "Run `keyledger up` to create one, or set KEYLEDGER_DATA_DIR to an existing one.",
        )
    elif not exists:
        yield ok(f"the data directory {data_dir} doesn't exist yet; `keyledger up` creates it")
    else:
        yield from _exposed(data_dir) or [ok(f"the data directory {data_dir} is closed to others")]


def _audit_key(installation: Installation) -> Iterator[Finding]:
    audit = installation.of(AuditInspection)
    file, signer = audit.key_file, audit.signer
    if file.exists():
        try:
            key = signer.public_key
        except SigningError as error:
            yield problem(str(error), "Restore the key from a copy.")
            return
        yield from _exposed(file) or [ok(f"{file} signs for the audit log as {key.name}+{key.key_id.hex()}")]
    elif signer.anchor_file.exists():
        yield problem(
            f"{file}, which signed for the audit log, is missing",
            "Restore it from a copy: those who saved its public key trust no other.",
        )
    else:
        yield ok(f"{file} doesn't exist yet; the first checkpoint creates it")


def _exposed(path: Path) -> list[Finding]:
    """Returns a finding if others may open the file."""
    mode = S_IMODE(path.stat().st_mode) if path.exists() else 0
    if not mode & (_GROUP | _OTHERS):
        return []
    say, who = (problem, "everyone on this machine") if mode & _OTHERS else (warning, "its group")
    return [say(f"{path} is open to {who} (mode {mode:04o})", f"Run `chmod go= {path}`.")]
