"""Whether a backup is right, and may be restored here. Nothing is written."""

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
_OR_WITHOUT = "or restore --without-checkpoints, which begins a new chain of them"

Bar: TypeAlias = Callable[[str], AbstractContextManager[Progress]]  # shows how far what is named has come


class Proved(NamedTuple):
    """What a backup holds beside its events."""

    header: Header
    notes: Sequence[bytes]  # of the checkpoints that are to be restored
    credentials: Sequence[Credential]


def prove(file: BinaryIO, components: Container, bar: Bar, *, with_checkpoints: bool) -> Proved:
    """Goes through a backup, and looks whether it may be restored.

    Store and audit log may hold nothing, or what an interrupted restore of the same file left there. Raises
    OtherFileError, DamagedFileError, TransferError, SigningError, AuditDatabaseError, redis.RedisError.
    """
    verify_whole(from_start(file))
    if is_read_from(components.shared.store):
        raise TransferError("A Keyledger runs on this store: stop it, then restore again.")
    header = Reader(from_start(file)).header
    held_of(events_of(file), header.events, components.shared.ledger)
    audit = components.of(AuditComponents)
    reader = Reader(from_start(file))
    kept = reader.notes()
    notes = kept if with_checkpoints else []
    checkpoints = _signed(notes, audit.signer, audit.key_file)
    _refuse_later(notes, audit.signer)
    end = _end_of(audit.log, notes)
    wanted = {checkpoint.position for checkpoint in checkpoints} | ({end.position} if end else set())
    with bar("reading") as progress:
        hashes = _hashes(reader.records(), wanted, header.events, progress)
    _refuse_uncovered(checkpoints, hashes)
    if end and hashes.get(end.position) != end.entry_hash:
        raise _other_audit_log()
    return Proved(header, notes, reader.credentials())


def _signed(notes: Sequence[bytes], signer: Signer, key_file: Path) -> list[SignedCheckpoint]:
    """The checkpoints, if the key that is here signed each of them behind the one before."""
    if not notes:
        return []
    if not key_file.exists():
        raise TransferError(
            f"{key_file} is missing, the key that signed the backup's checkpoints: "
            f"put it back first, {_OR_WITHOUT}."
        )
    try:
        verified(notes[0], signer.public_key)
    except NoteError as error:
        raise TransferError(
            f"{key_file} is not the key that signed the backup's checkpoints ({error}): "
            f"put that one back first, {_OR_WITHOUT}."
        ) from error
    findings = Findings()
    following = CheckpointChain(signer.public_key, findings)
    checkpoints = [following.follow(place, note) for place, note in enumerate(notes, 1)]
    for finding in findings.findings:
        raise _untrue(finding.detail)
    return [checkpoint for checkpoint in checkpoints if checkpoint]


def _refuse_later(notes: Sequence[bytes], signer: Signer) -> None:
    """One that was signed and is not restored would look like one that somebody cut off."""
    anchor = signer.anchor()
    if anchor is not None and anchor not in notes:
        raise TransferError(
            f"{signer.anchor_file} has a checkpoint that would not be restored: it was signed after the "
            "backup, or of another audit log. Move it away, keep it as evidence, and restore again."
        )


def _end_of(log: AuditLog, notes: Sequence[bytes]) -> Entry | None:
    """The last entry of a log that has no other checkpoints than these."""
    there = [each.note for each in log.checkpoints()]
    if there != notes[: len(there)]:
        raise _other_audit_log()
    return log.last_entry()


def _hashes(
    records: Iterable[Record], at: AbstractSet[int], count: int, progress: Progress
) -> dict[int, bytes]:
    """What the audit log's chain comes to at these positions."""
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
            raise _untrue(f"checkpoint {checkpoint.sequence} was signed for other events than the backup has")


def _untrue(detail: str) -> TransferError:
    return TransferError(
        f"The backup is not what was signed: {detail}. Nothing was written. "
        "Restore an older backup, or this one --without-checkpoints, which begins a new chain of them."
    )


def _other_audit_log() -> TransferError:
    return TransferError(
        "The audit log is not empty, and is another one than the backup's: move audit.db* out of the data "
        "directory, or set another KEYLEDGER_AUDIT_DATABASE_URL; keep the old one as evidence."
    )
