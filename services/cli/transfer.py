"""Commands that move the ledger from one house to another."""

from pathlib import Path

import click

from services.backup.transfer import export_file, import_file
from services.cli.terminal import opened, progress
from services.runtime.output import echo, note, report
from shared.components import StoreComponents


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def export_command(file: Path | None) -> None:
    """Write the ledger to FILE, or to standard output, as CloudEvents: one a line, then a trailer."""
    with opened(StoreComponents) as components, progress("exporting") as advance:
        count = export_file(components.ledger, file, advance)
    note(f"Exported {count:,} events. No password is among them.")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_command(file: Path) -> None:
    """Fill an empty ledger from FILE, which an export wrote; a file that is not whole writes nothing."""
    with opened(StoreComponents, makes=True) as components, progress("importing") as advance:
        count = import_file(components.ledger, file, advance)
    report(f"Imported {count:,} events. The views and the audit log follow while Keyledger runs.")
    echo("Keys work as before. Passwords stayed behind: let people in by `keyledger account password`.")
