"""Verifies that a backup is intact and can be restored here. Nothing is written."""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

from services.audit.components import AuditComponents
from services.audit.integrity.chain import CheckpointChain
from services.audit.integrity.checkpoint import SignedCheckpoint, verified
from services.audit.integrity.findings import Findings
from services.audit.integrity.signed_note import NoteError
from services.audit.integrity.signer import Signer
from services.audit.log.entry import GENESIS, Entry, chain
from services.audit.log.store import AuditLog
from services.backup.format import Credential, Header, Reader, events_of, verify_whole
from services.backup.transfer import Progress, TransferError, from_start, held_of
from shared.eventstore.envelope import Record
from shared.service.components import Container
from shared.store.connections import is_read_from

_PAGE = 1_000
_OR_WITHOUT = "or restore --without-checkpoints, which starts a new chain of them"

Bar: TypeAlias = Callable[[str], AbstractContextManager[Progress]]  # shows the progress of a named step


class VerifiedBackup(NamedTuple):
    """The content of a backup without its events."""

    header: Header
    notes: Sequence[bytes]  # of the checkpoints to restore
    credentials: Sequence[Credential]


def verify_backup(
    file: BinaryIO, components: Container, bar: Bar, *, with_checkpoints: bool
) -> VerifiedBackup:
    """Verifies a backup.

    Store and audit log must be empty, or have what an interrupted restore of the same file left. Raises
    OtherFileError, DamagedFileError, TransferError, SigningError, AuditDatabaseError, redis.RedisError.
    """
    verify_whole(from_start(file))
    if is_read_from(components.shared.store):
        raise TransferError("Keyledger is running on this store: stop it, then restore again.")
    header = Reader(from_start(file)).header
    held_of(events_of(file), header.events, components.shared.ledger)
    audit = components.of(AuditComponents)
    reader = Reader(from_start(file))
    all_notes = reader.notes()
    notes = all_notes if with_checkpoints else []
    checkpoints = _signed(notes, audit.signer, audit.key_file)
    _refuse_later(notes, audit.signer)
    end = _end_of(audit.log, notes)
    wanted = {checkpoint.position for checkpoint in checkpoints} | ({end.position} if end else set())
    with bar("reading") as progress:
        hashes = _hashes(reader.records(), wanted, header.events, progress)
    _refuse_uncovered(checkpoints, hashes)
    if end and hashes.get(end.position) != end.entry_hash:
        raise _other_audit_log()
    return VerifiedBackup(header, notes, reader.credentials())


def _signed(notes: Sequence[bytes], signer: Signer, key_file: Path) -> list[SignedCheckpoint]:
    """The checkpoints, if they form a chain that the key here signed."""
    if not notes:
        return []
    if not key_file.exists():
        raise TransferError(
            f"{key_file} is missing, the key that signed the backup's checkpoints: "
            f"restore it first, {_OR_WITHOUT}."
        )
    try:
        verified(notes[0], signer.public_key)
    except NoteError as error:
        raise TransferError(
            f"{key_file} isn't the key that signed the backup's checkpoints ({error}): "
            f"restore that key first, {_OR_WITHOUT}."
        ) from error
    findings = Findings()
    following = CheckpointChain(signer.public_key, findings)
    checkpoints = [following.follow(place, note) for place, note in enumerate(notes, 1)]
    for finding in findings.findings:
        raise _not_as_signed(finding.detail)
    return [checkpoint for checkpoint in checkpoints if checkpoint]


def _refuse_later(notes: Sequence[bytes], signer: Signer) -> None:
    """A signed checkpoint that isn't restored would look like one that was cut off."""
    anchor = signer.anchor()
    if anchor is not None and anchor not in notes:
        raise TransferError(
            f"{signer.anchor_file} has a checkpoint that wouldn't be restored: it was signed after the "
            "backup, or for another audit log. Move it elsewhere as evidence, and restore again."
        )


def _end_of(log: AuditLog, notes: Sequence[bytes]) -> Entry | None:
    """The last entry of the log, which must have no other checkpoints than these."""
    there = [each.note for each in log.checkpoints()]
    if there != notes[: len(there)]:
        raise _other_audit_log()
    return log.last_entry()


def _hashes(
    records: Iterable[Record], at: AbstractSet[int], count: int, progress: Progress
) -> dict[int, bytes]:
    """The entry hashes of the audit log's chain at these positions."""
    found = {}
    for entry in chain(records, GENESIS):
        if entry.position in at:
            found[entry.position] = entry.entry_hash
        if entry.position % _PAGE == 0:
            progress(entry.position, count)
    return found


def _refuse_uncovered(checkpoints: Iterable[SignedCheckpoint], hashes: dict[int, bytes]) -> None:
    for checkpoint in checkpoints:
        if hashes.get(checkpoint.position) != checkpoint.chain_hash:
            raise _not_as_signed(
                f"checkpoint {checkpoint.sequence} was signed for other events than the backup has"
            )


def _not_as_signed(detail: str) -> TransferError:
    return TransferError(
        f"The backup isn't what was signed: {detail}. Nothing was written. "
        "Restore an older backup, or this one --without-checkpoints, which starts a new chain of them."
    )


def _other_audit_log() -> TransferError:
    return TransferError(
        "The audit log isn't empty, and isn't the backup's: move audit.db* out of the data directory, or "
        "set another KEYLEDGER_AUDIT_DATABASE_URL. Keep the old one as evidence."
    )
