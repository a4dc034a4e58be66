"""Commands on the ledger and the views that are built from it."""

import json
import sys
from pathlib import Path

import click

from services.cli.terminal import (
    catch_up,
    json_option,
    lag_facts,
    lag_words,
    opened_parts,
    progress,
    stop_on_signal,
)
from services.composition import Parts, now_ms
from services.keys.operations import retry, status
from services.keys.rebuild import check, replay
from services.moving import export_file, import_file


@click.group(invoke_without_command=True)
@click.pass_context
def projector(context: click.Context) -> None:
    """Build the key list and key details from the ledger; or ask how far that is."""
    if context.invoked_subcommand is None:
        with opened_parts() as parts:
            parts.projector.run(stop_on_signal())


@projector.command("status")
@json_option
def projector_status(as_json: bool) -> None:
    """Say how far the views are behind the ledger, and which keys are parked."""
    with opened_parts() as parts:
        found = status(parts.ledger, parts.views, now_ms())
    if as_json:
        click.echo(json.dumps(lag_facts(found.position, found.lag) | {"parked": found.parked}))
        return
    click.echo(lag_words(found.position, found.lag))
    for key_id, reason in found.parked.items():
        click.echo(f"parked {key_id}: {reason}")


@projector.command("retry")
def projector_retry() -> None:
    """Take parked keys up again, with the code that runs now."""
    with opened_parts() as parts:
        outcomes = retry(parts.ledger, parts.views)
    for key_id, reason in outcomes.items():
        click.echo(f"{key_id} is still parked: {reason}" if reason else f"{key_id} is in the views again")
    if not outcomes:
        click.echo("No key is parked.")
    sys.exit(1 if any(outcomes.values()) else 0)


@click.command("replay")
@click.option("--check", "only_check", is_flag=True, help="Only compare the views with a rebuilt copy.")
def replay_command(only_check: bool) -> None:
    """Build the views anew from the ledger, and put them in the place of the old ones."""
    with opened_parts() as parts:
        if only_check:
            _check(parts)
            return
        with progress("replaying") as advance:
            position = replay(parts.ledger, parts.views, advance)
        click.echo(f"The views are rebuilt to position {position} and live.")


def _check(parts: Parts) -> None:
    catch_up(parts)
    with progress("checking") as advance:
        found = check(parts.ledger, parts.views, advance)
    click.echo(f"position  {found.position}\nlive      {found.live_digest}\nrebuilt   {found.copy_digest}")
    if found.equal:
        click.echo("equal")
        return
    click.echo("DIFFERENT: " + ", ".join(found.differing))
    click.echo("`keyledger replay` builds the views anew.")
    sys.exit(1)


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def export_command(file: Path | None) -> None:
    """Write the ledger to FILE, or to standard output, as CloudEvents: one a line, then a trailer."""
    with opened_parts() as parts, progress("exporting") as advance:
        count = export_file(parts.ledger, file, advance)
    click.echo(f"Exported {count:,} events. No password is among them.", err=True)


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_command(file: Path) -> None:
    """Fill an empty ledger from FILE, which an export wrote; a file that is not whole writes nothing."""
    with opened_parts() as parts, progress("importing") as advance:
        count = import_file(parts.ledger, file, advance)
    click.echo(f"Imported {count:,} events. The views and the audit log follow while Keyledger runs.")
    click.echo("Keys work as before. Passwords stayed behind: let people in by `keyledger account password`.")
