"""The audit log's processes, and its check."""

import sys

import click

from services.audit.integrity import check as check_audit_log
from services.audit.worker import run_worker
from services.cli.terminal import opened_parts, progress, serve_pages, stop_on_signal


@click.group()
def audit() -> None:
    """The audit log's processes, and its check."""


@audit.command("relay")
def audit_relay() -> None:
    """Tell the audit worker of new events."""
    with opened_parts() as parts:
        parts.relay.run(stop_on_signal())


@audit.command("worker")
def audit_worker() -> None:
    """Write the audit log."""
    with opened_parts() as parts:
        run_worker(parts.waiting_store, parts.audit_log, parts.ledger)


@audit.command("check")
def audit_check() -> None:
    """Go through the audit log: its chain, its entries, and the ledger's events beside them."""
    with opened_parts() as parts, progress("checking") as advance:
        found = check_audit_log(parts.audit_log, parts.ledger, advance)
    click.echo(f"{found.entries} entries, {found.behind} events not yet in the log")
    for finding in found.findings:
        click.echo(
            f"{finding.kind} ({found.counts[finding.kind]}), first at {finding.position}: {finding.detail}"
        )
    click.echo("the audit log is sound" if found.ok else "THE AUDIT LOG IS NOT SOUND")
    sys.exit(0 if found.ok else 1)


@audit.command("web")
def audit_web() -> None:
    """Serve the audit pages and calls alone."""
    serve_pages("create_audit_web")
