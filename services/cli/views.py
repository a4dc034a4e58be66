"""The projector, and rebuilding the views."""

import json
import sys

import click

from services.cli.terminal import (
    exit_status,
    json_option,
    lag_facts,
    lag_words,
    monitor,
    opened,
    progress,
    until_stopped,
)
from services.keys.components import KeyComponents
from services.keys.manifest import MANIFEST
from services.keys.read_model.operations import Status, retry, status
from services.keys.read_model.rebuild.replay import check, replay
from services.runtime.output import echo, report
from shared.clock import now_ms
from shared.process.telemetry import escaped
from shared.service.components import Container


@click.group("projector", invoke_without_command=True)
@click.pass_context
def projector_command(context: click.Context) -> None:
    """Run the projector, which builds the key list and key details from the ledger."""
    if context.invoked_subcommand is None:
        with opened() as components:
            monitor(components, MANIFEST)
            components.of(KeyComponents).projector.run(until_stopped())


@projector_command.command("status")
@json_option
def projector_status(as_json: bool) -> None:
    """Show how far the views are behind the ledger, and which keys are parked.

    Exits with status 1 if they are more than 1,000 events or 30 s behind, or the ledger went backwards.
    """
    with opened() as components:
        found = status(components.shared.ledger, components.of(KeyComponents).views, now_ms())
    if as_json:
        fields = {"in_step": found.in_step, "parked": found.parked}
        echo(json.dumps(lag_facts(found.position, found.lag) | fields))
    else:
        _print_status(found)
    sys.exit(exit_status(found.lag, in_step=found.in_step))


def _print_status(found: Status) -> None:
    echo(lag_words(found.position, found.lag))
    if not found.in_step:
        echo("THE LEDGER WENT BACKWARDS: it doesn't have the last event of the views")
    for key_id, reason in found.parked.items():
        echo(f"parked {escaped(key_id)}: {escaped(reason)}")


@projector_command.command("retry")
def projector_retry() -> None:
    """Retry parked keys with the current version."""
    with opened() as components:
        outcomes = retry(components.shared.ledger, components.of(KeyComponents).views)
    for key_id, reason in outcomes.items():
        name = escaped(key_id)
        report(f"{name} is still parked: {escaped(reason)}" if reason else f"{name} is no longer parked")
    if not outcomes:
        echo("No keys are parked.")
    sys.exit(1 if any(outcomes.values()) else 0)


@click.command("replay")
@click.option("--check", "only_check", is_flag=True, help="Only compare the views with a rebuilt copy.")
def replay_command(only_check: bool) -> None:
    """Rebuild the views from the ledger and swap them in."""
    with opened() as components:
        if only_check:
            _check(components)
            return
        with progress("replaying") as advance:
            position = replay(components.shared.ledger, components.of(KeyComponents).views, advance)
        report(f"The views were rebuilt to position {position} and are live.")


def _check(components: Container) -> None:
    components.of(KeyComponents).projector.catch_up()
    with progress("checking") as advance:
        found = check(components.shared.ledger, components.of(KeyComponents).views, advance)
    echo(f"position  {found.position}\nlive      {found.live_digest}\nrebuilt   {found.copy_digest}")
    if found.equal:
        echo("equal")
        return
    echo("DIFFERENT: " + ", ".join(found.differing))
    echo("Rebuild the views with `keyledger replay`.")
    sys.exit(1)
