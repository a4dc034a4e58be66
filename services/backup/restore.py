"""Restores a backup into an empty store and an empty audit log."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from services.accounts.components import AccountComponents
from services.audit.components import AuditComponents
from services.audit.log.store import AuditLog
from services.backup.files import source
from services.backup.format import Credential, OtherFileError, events_of
from services.backup.transfer import Progress, TransferError, fill
from services.backup.verify import Bar, VerifiedBackup, verify_backup
from services.keys.components import KeyComponents
from shared.eventstore.ledger import Ledger, NotReplicatedError
from shared.service.components import Container
from shared.text.sealed_jsonl import DamagedFileError

_PAGE = 1_000


def restore_file(
    components: Container, path: Path, bar: Bar, *, with_checkpoints: bool = True
) -> VerifiedBackup:
    """Restores ledger, passwords, audit log and views, and returns what was restored.

    Nothing is written before the backup is verified. If it is killed, it can be run again with the same file.
    Raises TransferError, FileError, SigningError, AuditDatabaseError, redis.RedisError.
    """
    ledger, audit = components.shared.ledger, components.of(AuditComponents)
    with source(path) as file:
        try:
            verified = verify_backup(file, components, bar, with_checkpoints=with_checkpoints)
        except OtherFileError as error:
            raise TransferError(f"{path} {error}. Nothing was written.") from error
        except DamagedFileError as error:
            raise TransferError(f"{path} isn't a complete backup. {error} Nothing was written.") from error
        count = verified.header.events
        # First, so that the audit log of an unfinished restore is reported as cut off.
        _restore_checkpoints(audit, verified)
        with bar("events") as progress:
            fill(ledger, events_of(file), count, progress)
    _restore_passwords(ledger, verified.credentials)
    with bar("audit log") as progress:
        _fill_audit_log(audit.log, ledger, count, progress)
    with bar("views") as progress:
        _build_views(components, count, progress)
    return verified


def _restore_checkpoints(audit: AuditComponents, verified: VerifiedBackup) -> None:
    if verified.notes:
        audit.log.restore_checkpoints(verified.notes)
        audit.signer.keep(verified.notes[-1])


def _restore_passwords(ledger: Ledger, credentials: Iterable[Credential]) -> None:
    try:
        for credential in credentials:
            ledger.keep_credential(credential.subject, credential.value)
    except NotReplicatedError as error:
        raise TransferError(f"{error} in time. Check the replicas, then run it again.") from error


def _fill_audit_log(log: AuditLog, ledger: Ledger, count: int, progress: Progress) -> None:
    with closing(ledger.pages(log.last().position, _PAGE)) as pages:
        for page in pages:
            log.append(page)
            progress(page[-1].position, count)


def _build_views(components: Container, count: int, progress: Progress) -> None:
    keys = components.of(KeyComponents)
    done = keys.views.live().checkpoint().position
    while step := keys.projector.step(wait_ms=1):
        done += step
        progress(done, count)
    components.of(AccountComponents).account_list.catch_up()
