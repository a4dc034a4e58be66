"""The commands that back up an installation and restore it."""

from contextlib import suppress
from pathlib import Path

import click

from services.audit.components import AuditComponents
from services.backup.backup import backup_file
from services.backup.restore import restore_file
from services.cli.terminal import opened, progress
from services.runtime.output import echo, note, report
from shared.clock import now_ms


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
def backup_command(file: Path) -> None:
    """Back up the ledger, checkpoints and password hashes to FILE, or to standard output if it is -.

    The backup doesn't have the private key that signs for the audit log, sessions, usage counts,
    idempotency keys and limits.
    """
    with opened() as components, progress("backing up") as advance:
        audit = components.of(AuditComponents)
        taken = backup_file(components.shared.ledger, audit.log, file, now_ms(), advance)
    header = taken.header
    counts = _counts(header.events, header.checkpoints, taken.passwords)
    note(f"Backed up {counts}: keep it secret.")
    if taken.left_out:
        note(
            f"Checkpoint {header.checkpoints + 1} and what follows it can't be backed up: "
            "`keyledger audit check` shows why."
        )
    note(f"Not included: sessions, usage counts, and {audit.key_file}. Back that file up separately.")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--without-checkpoints",
    is_flag=True,
    help="Start a new chain of checkpoints if the key that signed the old ones is lost.",
)
def restore_command(file: Path, without_checkpoints: bool) -> None:
    """Restore a backup from FILE, or from standard input if it is -, into an empty store and audit log.

    Nothing is written if the file is incomplete. Run an interrupted restore again with the same file.
    """
    with opened(creates=True) as components:
        restored = restore_file(components, file, progress, with_checkpoints=not without_checkpoints)
    counts = _counts(restored.header.events, len(restored.notes), len(restored.credentials))
    report(f"Restored {counts}, as of {restored.header.taken_at}.")
    if without_checkpoints:
        echo("A new chain of checkpoints starts; keep the backup, which has the old ones.")
    echo("Keys and passwords work as before. Everyone must sign in again, and usage counts start from zero.")
    with suppress(OSError):  # standard input isn't a file
        if file.stat().st_mode & 0o077:
            note(f"Others can read {file}, which has password hashes: `chmod 600 {file}`.")


def _counts(events: int, checkpoints: int, passwords: int) -> str:
    return f"{events:,} events, {checkpoints:,} checkpoints and {passwords:,} password hashes"
