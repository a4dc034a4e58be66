"""Commands that take a backup, and restore it."""

from contextlib import suppress
from pathlib import Path

import click

from services.audit.manifest import AuditComponents
from services.backup.backup import backup_file
from services.backup.restore import restore_file
from services.cli.terminal import opened, progress
from services.runtime.components import Container
from services.runtime.output import echo, note, report
from shared.components import now_ms


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
def backup_command(file: Path) -> None:
    """Write what cannot be made anew to FILE, or to a program by -: ledger, checkpoints, password hashes.

    Not in it: the private key that signs for the audit log, which is kept apart; sessions; how often keys
    were used; idempotency keys and limits, which last a day at most.
    """
    with opened(AuditComponents) as components, progress("backing up") as advance:
        taken = backup_file(components.ledger, components.audit_log, file, now_ms(), advance)
        key_file = components.audit_key_file
    header = taken.header
    counts = _counts(header.events, header.checkpoints, taken.passwords)
    note(f"Backed up {counts}: keep it secret.")
    if taken.left_out:
        note(
            f"Checkpoint {header.checkpoints + 1} and what follows it cannot be backed up: "
            "`keyledger audit check` says why."
        )
    note(f"Not in it: sessions, counts of use, and {key_file}. Back it up separately.")


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--without-checkpoints",
    is_flag=True,
    help="Begin a new chain of checkpoints, where the key that signed the old ones is lost.",
)
def restore_command(file: Path, without_checkpoints: bool) -> None:
    """Make an empty store and audit log what they were from FILE, which a backup wrote, or - for a program.

    A file that is not whole writes nothing. A restore that was interrupted is run again with the same file.
    """
    with opened(Container, makes=True) as components:
        restored = restore_file(components, file, progress, with_checkpoints=not without_checkpoints)
    counts = _counts(restored.header.events, len(restored.notes), len(restored.credentials))
    report(f"Restored {counts}, as of {restored.header.taken_at}.")
    if without_checkpoints:
        echo("The old checkpoints stay in the backup, and a new chain of them begins: keep it.")
    echo("Keys and passwords work as before; everybody signs in again, and use is counted from now on.")
    with suppress(OSError):  # standard input has no such file
        if file.stat().st_mode & 0o077:
            note(f"Others can read {file}, which has password hashes: `chmod 600 {file}`.")


def _counts(events: int, checkpoints: int, passwords: int) -> str:
    return f"{events:,} events, {checkpoints:,} checkpoints and {passwords:,} password hashes"
