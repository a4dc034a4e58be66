"""The commands that transfer the ledger to another installation."""

from pathlib import Path

import click

from services.backup.transfer import export_file, import_file
from services.cli.terminal import opened, progress
from services.runtime.output import echo, note, report


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def export_command(file: Path | None) -> None:
    """Export the ledger to FILE, or to standard output, as CloudEvents in JSON Lines."""
    with opened() as components, progress("exporting") as advance:
        count = export_file(components.shared.ledger, file, advance)
    note(f"Exported {count:,} events. Passwords aren't included.")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_command(file: Path) -> None:
    """Import an export from FILE into an empty ledger. Nothing is written if the file is incomplete."""
    with opened(creates=True) as components, progress("importing") as advance:
        count = import_file(components.shared.ledger, file, advance)
    report(f"Imported {count:,} events. The views and the audit log follow while Keyledger runs.")
    echo("Keys work as before. Passwords aren't imported: set them with `keyledger account password`.")
