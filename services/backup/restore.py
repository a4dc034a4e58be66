"""Restores a backup into an empty store and an empty database of the audit log."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from services.accounts.components import AccountComponents
from services.audit.components import AuditComponents
from services.audit.log.store import AuditLog
from services.backup.files import source
from services.backup.format import Credential, OtherFileError, events_of
from services.backup.transfer import Progress, TransferError, fill
from services.backup.verify import Bar, Proved, prove
from services.keys.components import KeyComponents
from shared.eventstore.ledger import Ledger, NotReplicatedError
from shared.service.components import Container
from shared.text.sealed_jsonl import DamagedFileError

_PAGE = 1_000


def restore_file(components: Container, path: Path, bar: Bar, *, with_checkpoints: bool = True) -> Proved:
    """Makes ledger, audit log and views what they were, and lets the people sign in; gives what was restored.

    Nothing is written before all is known to be right. Killed anywhere, it can be run again with the same
    file. Raises TransferError, FileError, SigningError, AuditDatabaseError, redis.RedisError.
    """
    ledger, audit = components.shared.ledger, components.of(AuditComponents)
    with source(path) as file:
        try:
            proved = prove(file, components, bar, with_checkpoints=with_checkpoints)
        except OtherFileError as error:
            raise TransferError(f"{path} {error}. Nothing was written.") from error
        except DamagedFileError as error:
            raise TransferError(f"{path} is not a whole backup. {error} Nothing was written.") from error
        count = proved.header.events
        # First, for then the audit log of a restore that never came to its end is found to be cut off.
        _vouch(audit, proved)
        with bar("events") as progress:
            fill(ledger, events_of(file), count, progress)
    _let_in(ledger, proved.credentials)
    with bar("audit log") as progress:
        _chain(audit.log, ledger, count, progress)
    with bar("views") as progress:
        _project(components, count, progress)
    return proved


def _vouch(audit: AuditComponents, proved: Proved) -> None:
    if proved.notes:
        audit.log.restore_checkpoints(proved.notes)
        audit.signer.keep(proved.notes[-1])


def _let_in(ledger: Ledger, credentials: Iterable[Credential]) -> None:
    try:
        for credential in credentials:
            ledger.keep_credential(credential.subject, credential.value)
    except NotReplicatedError as error:
        raise TransferError(f"{error} in time: look after the replicas, then run it again.") from error


def _chain(log: AuditLog, ledger: Ledger, count: int, progress: Progress) -> None:
    with closing(ledger.pages(log.last().position, _PAGE)) as pages:
        for page in pages:
            log.append(page)
            progress(page[-1].position, count)


def _project(components: Container, count: int, progress: Progress) -> None:
    keys = components.of(KeyComponents)
    done = keys.views.live().checkpoint().position
    while step := keys.projector.step(wait_ms=1):
        done += step
        progress(done, count)
    components.of(AccountComponents).account_list.catch_up()
