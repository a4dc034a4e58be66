"""Backs up a running installation."""

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

# Searched in the bytes first, because nearly all events are about keys.
_OF_ACCOUNT = b'"subject":"' + ACCOUNT_SUBJECT.encode()


class Taken(NamedTuple):
    """The content of a backup, and how many checkpoints were left out."""

    header: Header
    passwords: int
    left_out: int


def backup_file(ledger: Ledger, log: AuditLog, path: Path, now: int, progress: Progress) -> Taken:
    """Writes everything that can't be derived from something else.

    The checkpoints are read before the end of the ledger, so the backup has all entries that they cover. The
    passwords are read after the events, so some may be newer than the events, but none is older.
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
                    "A backup has password hashes, so it isn't printed to a terminal. Name a file, "
                    "or pipe it to a program: `keyledger backup - | gpg -e > FILE`."
                )
            records = _noting_accounts(accounts, read_until(last, ledger, progress))
            file.writelines(lines(header, notes, records, credentials()))
    except ExportError as error:
        raise TransferError(str(error)) from error
    return Taken(header, len(passwords), len(checkpoints) - len(notes))


def _readable(checkpoints: Iterable[StoredCheckpoint], last: int) -> Iterator[bytes]:
    """The notes before the first one that is missing, invalid, or covers more than the ledger has."""
    for place, (_, note) in enumerate(checkpoints, 1):
        try:
            found = unverified(note) if isinstance(note, bytes) else None
        except NoteError:
            return
        if found is None or found.sequence != place or found.position > last:
            return
        yield note


def _noting_accounts(accounts: set[str], records: Iterable[Record]) -> Iterator[Record]:
    """The same records. Adds the accounts that they are about to `accounts`."""
    for record in records:
        if _OF_ACCOUNT in record.body and (subject := name_of(record).subject):
            accounts.add(subject)
        yield record


def _passwords(ledger: Ledger, accounts: Iterable[str]) -> Iterator[Credential]:
    for subject in accounts:
        if value := ledger.credential(subject):
            yield Credential(subject, value)
