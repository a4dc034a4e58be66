"""Run, check and export the audit log."""

import json
import sys
from codecs import BOM_UTF8
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import click

from services.audit.components import AuditComponents
from services.audit.export.jsonl import WHOLE
from services.audit.export.service import Format
from services.audit.export.verify import Proof, prove
from services.audit.ingest.worker import run_worker
from services.audit.integrity.checkpoint import unverified
from services.audit.integrity.findings import Finding, Findings
from services.audit.integrity.signed_note import PublicKey, PublicKeyError
from services.audit.integrity.verify_log import Result, Trust, payload_of
from services.audit.integrity.verify_log import check as check_audit_log
from services.audit.manifest import MANIFEST
from services.audit.status import CHECKS, LastCheck, LastCheckpoint, Progress
from services.backup.files import output
from services.cli.terminal import (
    exit_status,
    json_option,
    lag_facts,
    lag_words,
    monitor,
    opened,
    operator,
    progress,
    request,
    until_stopped,
)
from services.runtime.output import echo, note, report, tell_once
from services.runtime.server import serve_pages
from shared.clock import rfc3339
from shared.identity import DEFAULT_WORKSPACE
from shared.process.telemetry import escaped
from shared.service.components import Container, SharedComponents
from shared.settings import Settings
from shared.store.embedded import ensure_made


def _public_key(_context: click.Context, _parameter: click.Parameter, text: str | None) -> PublicKey | None:
    try:
        return PublicKey.of_text(text) if text is not None else None
    except PublicKeyError as error:
        raise click.BadParameter(str(error)) from error


@click.group("audit")
def audit_command() -> None:
    """Run, check and export the audit log."""


@audit_command.command("relay")
def audit_relay() -> None:
    """Run the relay, which notifies the audit worker of new events."""
    with opened() as components:
        monitor(components, MANIFEST)
        components.of(AuditComponents).relay.run(until_stopped())


@audit_command.command("worker")
def audit_worker() -> None:
    """Run the audit worker, which writes the audit log and signs checkpoints."""
    with opened() as components:
        monitor(components, MANIFEST)
        audit, shared = components.of(AuditComponents), components.shared
        run_worker(shared.waiting_store, audit.log, shared.ledger, audit.notary, audit.alarms)


@audit_command.command("web")
def audit_web() -> None:
    """Serve only the audit pages and API."""
    serve_pages("create_audit_web")


@audit_command.command("status")
@json_option
def audit_status(as_json: bool) -> None:
    """Show how far the audit log is behind the ledger, the last check and checkpoint, and failed jobs.

    Exits with status 1 if it is more than 1,000 events or 30 s behind, the ledger went backwards, or an
    alarm is not acknowledged.
    """
    with opened() as components:
        status = components.of(AuditComponents).status
        found, check, last = status.progress(), status.last_check(), status.last_checkpoint()
        alarm = status.alarm()
    if as_json:
        fields = lag_facts(found.position, found.lag) | {
            "in_step": found.in_step,
            "alarm": alarm.finding._asdict() | {"at": rfc3339(alarm.at)} if alarm else None,
            "checked_at": rfc3339(check.at) if check else None,
            "sound": check.intact if check else None,
            "checkpoint": last.checkpoint.sequence if last else None,
            "checkpoint_position": last.checkpoint.position if last else None,
            "jobs_waiting": found.waiting,
            "jobs_failed": found.failed,
            "failures": [{"at": rfc3339(each.at), "reason": each.reason} for each in found.failures],
        }
        echo(json.dumps(fields))
    else:
        if alarm:
            echo(f"ALARM at {rfc3339(alarm.at)}: {_words(alarm.finding)}")
        _print_status(found, check, last)
    sys.exit(exit_status(found.lag, in_step=found.in_step and alarm is None))


def _print_status(found: Progress, check: LastCheck | None, last: LastCheckpoint | None) -> None:
    echo(lag_words(found.position, found.lag))
    if not found.in_step:
        echo("THE LEDGER WENT BACKWARDS: it doesn't have the last event of the log")
    outcome = "verified" if check and check.intact else "VERIFICATION FAILED"
    echo(f"{outcome} at {rfc3339(check.at)}" if check else "never verified")
    if last:
        signed = last.checkpoint
        echo(f"checkpoint {signed.sequence} at position {signed.position}, {rfc3339(signed.time)}")
    echo(f"{found.waiting} jobs waiting, {found.failed} failed within the last hour")
    for failure in found.failures:
        echo(f"failed {rfc3339(failure.at)}: {escaped(failure.reason)}")


@audit_command.command("reindex")
def audit_reindex() -> None:
    """Rebuild the search index of the audit log. The log itself isn't changed."""
    with progress("indexing") as advance:
        _without_store().log.reindex(advance)
    report("The search index is complete.")


@audit_command.command("public-key")
def audit_public_key() -> None:
    """Print the public key that verifies signatures. Save it where nobody here can change it."""
    echo(str(_without_store().signer.public_key))


@audit_command.command("checkpoint")
def audit_checkpoint() -> None:
    """Sign and print a checkpoint of the audit log."""
    with opened() as components:
        signed = components.of(AuditComponents).notary.sign_checkpoint()
    if signed is None:
        echo("The audit log is empty.")
    else:
        done = f"Done: checkpoint {unverified(signed).sequence} was signed, and is in the audit log."
        tell_once(signed.decode().removesuffix("\n"), done)


@audit_command.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON Lines can be verified; CSV is for spreadsheets.",
)
def audit_export(file: Path, form: Format) -> None:
    """Write the whole audit log, of all workspaces, to FILE; verify it with `check --file`."""
    with opened() as components, progress("exporting") as advance:
        export = components.of(AuditComponents).exports.whole(
            operator(DEFAULT_WORKSPACE), form, request(), advance
        )
        with output(file) as lines:
            lines.writelines(export.lines)
    note(f"Exported the audit log up to position {export.position:,}.")


@audit_command.command("check")
@click.option("--file", type=click.File("rb"), help="Verify an export instead.")
@click.option(
    "--public-key",
    callback=_public_key,
    metavar="VKEY",
    help="The public key to verify with, as `keyledger audit public-key` printed it.",
)
@click.option(
    "--acknowledge",
    is_flag=True,
    help="Acknowledge the alarm if verification finds nothing else.",
)
def audit_check(file: BinaryIO | None, public_key: PublicKey | None, acknowledge: bool) -> None:
    """Verify the audit log: its chain, its checkpoints, and each entry against the ledger."""
    if file is not None:
        if acknowledge:
            raise click.UsageError("An export has no alarm: leave out --acknowledge or --file.")
        if public_key is None:
            raise click.UsageError(
                "Verifying an export needs the public key: pass it with --public-key. "
                "`keyledger audit public-key` prints it."
            )
        found: Findings = _check_file(file, public_key)
    else:
        with opened() as components:
            found = _check_log(components, public_key, acknowledge=acknowledge)
    for finding in found.findings:
        count = found.counts[finding.kind]
        echo(_words(finding, count))
    what = "the audit log" if file is None else "the export"
    echo(f"{what} is intact" if found.ok else f"{what} is not intact".upper())
    sys.exit(0 if found.ok else 1)


def _without_store() -> AuditComponents:
    settings = Settings.from_environment()
    if not (settings.audit_database_url and settings.audit_key_file):
        ensure_made(settings)
    return AuditComponents(SharedComponents(settings, store_url=""))


def _words(finding: Finding, count: int = 1) -> str:
    return f"{finding.kind} ({count}), first at {finding.position}: {escaped(finding.detail)}"


def _check_log(components: Container, public_key: PublicKey | None, *, acknowledge: bool) -> Result:
    audit = components.of(AuditComponents)
    trust = Trust(public_key or audit.signer.public_key, audit.signer.anchor())
    audit.alarms.report_if_backwards()
    alarm = audit.alarms.current()
    with progress("checking") as advance:
        found = check_audit_log(audit.log, components.shared.ledger, trust, advance)
    lines = [
        f"{found.entries} entries, {found.checkpoints} checkpoints, {found.behind} events not yet in the log"
    ]
    intact = replace(found, counts={}, first={}) if found.ok else None
    if alarm:
        found.add(alarm.finding)
    # Printing can fail, so it comes last. The finding that is acknowledged is recorded too.
    if not _record(components, found):
        lines.append("The verification wasn't recorded, because the ledger ends before the log.")
    if alarm and acknowledge and intact:
        audit.alarms.acknowledge()
        _record(components, intact)
        lines.append(f"acknowledged {_words(alarm.finding)}")
        found = intact
    outcome = "intact" if found.ok else "NOT INTACT"
    tell_once("\n".join(lines), f"The audit log is {outcome}: {'; '.join(lines).rstrip('.')}.")
    return found


def _record(components: Container, found: Result) -> bool:
    """Records the check in the ledger, unless the ledger ends before the log."""
    if found.ledger_position < found.log_position:
        return False
    actor = operator(DEFAULT_WORKSPACE)
    components.shared.journal.record(
        payload_of(found), subject=CHECKS, workspace=actor.workspace, actor=actor.actor, request=request()
    )
    return True


def _check_file(file: BinaryIO, public_key: PublicKey) -> Proof:
    first = next(file, b"")
    if first.startswith(BOM_UTF8):
        raise click.UsageError("CSV has no signature. Export as JSON Lines to verify it.")
    proof = prove(chain([first] if first else [], file), public_key)
    echo(f"{proof.entries} entries up to position {proof.last_position}, {proof.checkpoints} checkpoints")
    if proof.trailer:
        scope = "the whole log" if proof.trailer.scope == WHOLE else proof.trailer.scope
        echo(f"signed at {rfc3339(proof.trailer.time)} as an export of {scope}")
    return proof
