"""Restores a backup into an empty store and an empty database of the audit log."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from services.audit.audit_log import AuditLog
from services.backup_file import Credential, OtherFileError, events_of
from services.backup_proof import Bar, Proved, prove
from services.composition import Parts
from services.files import source
from services.moving import MovingError, Progress, fill
from shared.export import DamagedFileError
from shared.ledger import Ledger, NotReplicatedError

_PAGE = 1_000


def restore_file(parts: Parts, path: Path, bar: Bar, *, with_checkpoints: bool = True) -> Proved:
    """Makes ledger, audit log and views what they were, and lets the people sign in; gives what was restored.

    Nothing is written before all is known to be right. Killed anywhere, it can be run again with the same
    file. Raises MovingError, FileError, SigningError, AuditDatabaseError, redis.RedisError.
    """
    with source(path) as file:
        try:
            proved = prove(file, parts, bar, with_checkpoints=with_checkpoints)
        except OtherFileError as error:
            raise MovingError(f"{path} {error}. Nothing was written.") from error
        except DamagedFileError as error:
            raise MovingError(f"{path} is not a whole backup. {error} Nothing was written.") from error
        count = proved.header.events
        # First, for then the audit log of a restore that never came to its end is found to be cut off.
        _vouch(parts, proved)
        with bar("events") as progress:
            fill(parts.ledger, events_of(file), count, progress)
    _let_in(parts.ledger, proved.credentials)
    with bar("audit log") as progress:
        _chain(parts.audit_log, parts.ledger, count, progress)
    with bar("views") as progress:
        _project(parts, count, progress)
    return proved


def _vouch(parts: Parts, proved: Proved) -> None:
    if proved.notes:
        parts.audit_log.put_back(proved.notes)
        parts.signer.keep(proved.notes[-1])


def _let_in(ledger: Ledger, credentials: Iterable[Credential]) -> None:
    try:
        for credential in credentials:
            ledger.keep_credential(credential.subject, credential.value)
    except NotReplicatedError as error:
        raise MovingError(f"{error} in time: look after the replicas, then run it again.") from error


def _chain(log: AuditLog, ledger: Ledger, count: int, progress: Progress) -> None:
    with closing(ledger.pages(log.last().position, _PAGE)) as pages:
        for page in pages:
            log.append(page)
            progress(page[-1].position, count)


def _project(parts: Parts, count: int, progress: Progress) -> None:
    done = parts.views.live().checkpoint().position
    while step := parts.projector.step(wait_ms=1):
        done += step
        progress(done, count)
    parts.directory.catch_up()
