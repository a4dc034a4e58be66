"""Takes a backup while Keyledger runs."""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from services.audit.integrity.checkpoint import unverified
from services.audit.integrity.signed_note import NoteError
from services.audit.log.store import AuditLog, StoredCheckpoint
from services.backup.files import output
from services.backup.format import Credential, Header, lines
from services.backup.transfer import Progress, TransferError, read_until
from shared.clock import rfc3339
from shared.eventstore.cloudevents import ExportError
from shared.eventstore.codec import name_of
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import Ledger
from shared.eventstore.payload import ACCOUNT_SUBJECT

# Looked for in the bytes first, for nearly all of a ledger is about keys.
_OF_ACCOUNT = b'"subject":"' + ACCOUNT_SUBJECT.encode()


class Taken(NamedTuple):
    """What is in a backup, and how many checkpoints are not."""

    header: Header
    passwords: int
    left_out: int


def backup_file(ledger: Ledger, log: AuditLog, path: Path, now: int, progress: Progress) -> Taken:
    """Writes what cannot be made anew of a Keyledger, as it is at this moment.

    The checkpoints are read before the ledger's head, so that all that they vouch for is in the backup. The
    passwords are read after its events: one may be newer than the ledger, but none is older.
    Raises TransferError, FileError, AuditDatabaseError, redis.RedisError.
    """
    checkpoints = log.checkpoints()
    last = ledger.head().position
    notes = [*_readable(checkpoints, last)]
    header = Header(
        taken_at=rfc3339(now), keyledger=version("keyledger"), events=last, checkpoints=len(notes)
    )
    accounts = set[str]()
    passwords: list[Credential] = []

    def credentials() -> Iterator[Credential]:
        passwords.extend(_passwords(ledger, sorted(accounts)))
        yield from passwords

    try:
        with output(path) as file:
            if file.isatty():
                raise TransferError(
                    "A backup has password hashes, and is not shown on a terminal: name a file, "
                    "or give it to a program, as by `keyledger backup - | gpg -e > FILE`."
                )
            records = _noted(accounts, read_until(last, ledger, progress))
            file.writelines(lines(header, notes, records, credentials()))
    except ExportError as error:
        raise TransferError(str(error)) from error
    return Taken(header, len(passwords), len(checkpoints) - len(notes))


def _readable(checkpoints: Iterable[StoredCheckpoint], last: int) -> Iterator[bytes]:
    """The notes up to the first that is not there, is none, or vouches for more than the ledger has."""
    for place, (_, note) in enumerate(checkpoints, 1):
        try:
            found = unverified(note) if isinstance(note, bytes) else None
        except NoteError:
            return
        if found is None or found.sequence != place or found.position > last:
            return
        yield note


def _noted(accounts: set[str], records: Iterable[Record]) -> Iterator[Record]:
    """The records as they are; the accounts that they are about are added."""
    for record in records:
        if _OF_ACCOUNT in record.body and (subject := name_of(record).subject):
            accounts.add(subject)
        yield record


def _passwords(ledger: Ledger, accounts: Iterable[str]) -> Iterator[Credential]:
    for subject in accounts:
        if value := ledger.credential(subject):
            yield Credential(subject, value)
