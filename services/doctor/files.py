"""The files that hold secrets: whether they are there, closed to others, and what they should be."""

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
    """The data directory, the key that signs for the audit log, the secret of the web."""
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
        yield problem(f"{data_dir} is closed to this user", "Run this as the user that Keyledger runs as.")
    elif holds_store and not is_made(data_dir):
        yield warning(
            f"there is no Keyledger in {data_dir}",
            "Run `keyledger up` to create one, or set KEYLEDGER_DATA_DIR to an existing one.",
        )
    elif not exists:
        yield ok(f"the data directory {data_dir} is not there yet; `keyledger up` makes it")
    else:
        yield from _exposed(data_dir) or [ok(f"the data directory {data_dir} is closed to others")]


def _audit_key(installation: Installation) -> Iterator[Finding]:
    audit = installation.of(AuditInspection)
    file, signer = audit.key_file, audit.signer
    if file.exists():
        try:
            key = signer.public_key
        except SigningError as error:
            yield problem(str(error), "Bring the key back from a copy of it.")
            return
        yield from _exposed(file) or [ok(f"{file} signs for the audit log as {key.name}+{key.key_id.hex()}")]
    elif signer.anchor_file.exists():
        yield problem(
            f"{file} is gone, which has signed for the audit log",
            "Bring it back from a copy: nobody who noted down its public key trusts another.",
        )
    else:
        yield ok(f"{file} is not there yet; the first checkpoint makes it")


def _exposed(path: Path) -> list[Finding]:
    """What is wrong with who may open it."""
    mode = S_IMODE(path.stat().st_mode) if path.exists() else 0
    if not mode & (_GROUP | _OTHERS):
        return []
    say, who = (problem, "everybody on this machine") if mode & _OTHERS else (warning, "its group")
    return [say(f"{path} is open to {who} (mode {mode:04o})", f"Run `chmod go= {path}`.")]
