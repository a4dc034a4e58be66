"""The key file, the anchor file next to it, and the notary that adds checkpoints."""

import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from structlog.testing import capture_logs

from services.audit.integrity.checkpoint import (
    DUE_ENTRIES,
    DUE_MS,
    SignedCheckpoint,
    note_hash,
    unverified,
    verified,
)
from services.audit.integrity.notary import Notary, is_due
from services.audit.integrity.signed_note import opened
from services.audit.integrity.signer import Signer, SigningError
from services.audit.log.store import AuditLog
from shared.eventstore.ledger import Ledger
from tests.support.histories import AT, notary_of, records, write
from tests.support.tampering import Tampered


def checkpoint(signer: Signer, sequence: int) -> bytes:
    return signer.sign(SignedCheckpoint(sequence, bytes(32), sequence, bytes(32), AT).text)


def test_the_key_is_created_on_first_use_and_is_owner_only(key_file: Path) -> None:
    signer = Signer(key_file)
    assert not key_file.exists()
    note = signer.sign("text\n")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key_file.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")  # pragma: allowlist secret
    assert [*key_file.parent.iterdir()] == [key_file]
    assert opened(note, Signer(key_file).public_key) == "text\n"


def test_concurrent_first_uses_share_one_key(key_file: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = [*threads.map(lambda _: str(Signer(key_file).public_key), range(8))]
    assert len(set(keys)) == 1
    assert keys[0].startswith("keyledger-audit+")
    assert [*key_file.parent.iterdir()] == [key_file]


def test_a_key_created_by_openssl_is_accepted(key_file: Path) -> None:
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key_file)]
    subprocess.run(command, check=True, capture_output=True)
    signer = Signer(key_file)
    assert opened(signer.sign("text\n"), signer.public_key) == "text\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"secret",
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
        ),
    ],
    ids=["nothing", "no PEM", "another kind", "with a password"],
)
def test_a_file_without_a_usable_key_is_rejected_and_left_unchanged(key_file: Path, content: bytes) -> None:
    key_file.write_bytes(content)
    with pytest.raises(SigningError, match="doesn't have an Ed25519 private key") as caught:
        _ = Signer(key_file).public_key
    assert key_file.read_bytes() == content
    assert "secret" not in str(caught.value)


def test_a_missing_key_directory_is_reported_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match=r"No such file.*openssl genpkey.*KEYLEDGER_AUDIT_KEY_FILE"):
        _ = Signer(tmp_path / "none" / "key.pem").public_key


def test_the_anchor_keeps_the_latest_checkpoint_only(signer: Signer) -> None:
    assert signer.anchor() is None
    notes = [checkpoint(signer, sequence) for sequence in (1, 2, 3)]
    for note in (notes[0], notes[2], notes[1]):
        signer.keep(note)
    assert signer.anchor() == notes[2]
    assert stat.S_IMODE(signer.anchor_file.stat().st_mode) == 0o600


def test_an_invalid_anchor_is_replaced(signer: Signer) -> None:
    note = checkpoint(signer, 1)
    signer.anchor_file.write_bytes(b"no note")
    signer.keep(note)
    assert signer.anchor() == note


def test_a_read_only_directory_yields_no_anchor_and_is_logged_once(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    note = checkpoint(signer, 1)
    monkeypatch.setattr("services.audit.integrity.signer.tempfile.mkstemp", refuse)  # root may write anywhere
    with capture_logs() as lines:
        signer.keep(note)
        signer.keep(note)
    assert [line["event"] for line in lines] == ["the last checkpoint is only in the database"]
    assert signer.anchor() is None


def test_a_checkpoint_covers_the_log_up_to_its_last_entry(
    ledger: Ledger, log: AuditLog, notary: Notary, signer: Signer
) -> None:
    assert notary.sign_checkpoint() is None
    write(ledger, log, records(range(1, 4)))
    first = notary.sign_checkpoint()
    assert first
    assert notary.sign_checkpoint() == first  # nothing came since
    write(ledger, log, records(range(4, 6)))
    second = notary.sign_checkpoint()
    assert second
    assert [tuple(each) for each in log.checkpoints()] == [(1, first), (2, second)]
    said, last = verified(second, signer.public_key), log.last_entry()
    assert last
    assert (said.position, said.chain_hash, said.previous) == (5, last.entry_hash, note_hash(first))
    assert signer.anchor() == second


def test_a_checkpoint_is_signed_only_when_due(ledger: Ledger, sqlite_log: AuditLog, signer: Signer) -> None:
    now = [AT]
    notary = notary_of(sqlite_log, ledger, signer, lambda: now[0])
    write(ledger, sqlite_log, records([1]))
    made = []
    for end, later in ((2, 0), (3, DUE_MS - 1), (4, 1), (4 + DUE_ENTRIES, 0)):
        notary.sign_checkpoint_if_due()
        made.append(len(sqlite_log.checkpoints()))
        now[0] += later
        write(ledger, sqlite_log, records(range(sqlite_log.last().position + 1, end + 1)))
        assert is_due(sqlite_log, end, now[0]) is (end in {4, 4 + DUE_ENTRIES})
    notary.sign_checkpoint_if_due()
    assert [*made, len(sqlite_log.checkpoints())] == [1, 1, 1, 2, 3]


def test_setting_the_clock_back_does_not_move_checkpoint_times_back(
    ledger: Ledger, sqlite_log: AuditLog, signer: Signer
) -> None:
    times = iter([AT, AT - 60_000])
    notary = notary_of(sqlite_log, ledger, signer, lambda: next(times))
    for position in (1, 2):
        write(ledger, sqlite_log, records([position]))
        notary.sign_checkpoint()
    assert [unverified(each.note).time for each in sqlite_log.checkpoints()] == [AT, AT]


def test_concurrent_workers_sign_one_chain_of_checkpoints(
    ledger: Ledger, database_url: str, key_file: Path, log: AuditLog
) -> None:
    write(ledger, log, records(range(1, 41)))
    ledger.fill(40, records(range(41, 81)))
    minutes = count()

    def vouch(worker: int) -> None:
        own = AuditLog(database_url)
        notary = notary_of(own, ledger, Signer(key_file), lambda: AT + next(minutes))
        for position in range(41 + worker, 81, 4):
            own.append(ledger.read(0, position))
            notary.sign_checkpoint()
        own.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(vouch, range(4)))
    notes = log.checkpoints()
    said = [verified(each.note, Signer(key_file).public_key) for each in notes]
    assert [each.sequence for each in said] == list(range(1, len(said) + 1))
    assert [each.previous for each in said[1:]] == [note_hash(each.note) for each in notes[:-1]]
    assert said == sorted(said)
    assert said[-1].position == 80
    assert Signer(key_file).anchor() == notes[-1].note


def test_no_checkpoint_is_signed_after_a_missing_one(
    ledger: Ledger, log: AuditLog, notary: Notary, signer: Signer, tampered: Tampered
) -> None:
    for position in (1, 2):
        write(ledger, log, records([position]))
        notary.sign_checkpoint()
    tampered.disarm()
    tampered.run("DELETE FROM audit_checkpoints WHERE sequence = 2")
    write(ledger, log, records([3]))
    anchor = signer.anchor()
    with pytest.raises(SigningError, match="Checkpoint 2 was signed, but is missing"):
        notary.sign_checkpoint()
    assert signer.anchor() == anchor
    signer.anchor_file.unlink()  # as it says, for an old copy that was brought back on purpose
    assert notary.sign_checkpoint()


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (b"no note", "The last checkpoint isn't valid"),
        ("stranger", "isn't signed by"),
        ("earlier", "another sequence number than its row"),
        ("fork", "isn't the one that was signed"),
    ],
)
def test_no_checkpoint_is_signed_after_an_untrusted_one(
    ledger: Ledger,
    log: AuditLog,
    notary: Notary,
    signer: Signer,
    tampered: Tampered,
    tmp_path: Path,
    note: object,
    reason: str,
) -> None:
    for position in (1, 2):
        write(ledger, log, records([position]))
        notary.sign_checkpoint()
    other = {
        "stranger": checkpoint(Signer(tmp_path / "other.pem"), 2),
        "earlier": log.checkpoints()[0].note,
        "fork": checkpoint(signer, 2),
    }
    tampered.disarm()
    found = other[note] if isinstance(note, str) else note
    tampered.run("UPDATE audit_checkpoints SET note = :note WHERE sequence = 2", note=found)
    write(ledger, log, records([3]))
    with pytest.raises(SigningError, match=reason):
        notary.sign_checkpoint()
    assert len(log.checkpoints()) == 2


def test_no_checkpoint_is_signed_for_a_truncated_log(
    ledger: Ledger, log: AuditLog, notary: Notary, tampered: Tampered
) -> None:
    write(ledger, log, records(range(1, 4)))
    note = notary.sign_checkpoint()
    tampered.disarm()
    tampered.run("DELETE FROM audit_entries WHERE position = 3")
    assert notary.sign_checkpoint() == note
    assert len(log.checkpoints()) == 1


def test_signing_continues_after_a_crash_before_the_anchor_was_written(
    ledger: Ledger, log: AuditLog, notary: Notary, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(ledger, log, records([1]))
    first = notary.sign_checkpoint()
    write(ledger, log, records([2]))
    with monkeypatch.context() as patch:
        patch.setattr(signer, "keep", lambda _: None)
        notary.sign_checkpoint()
    assert signer.anchor() == first
    write(ledger, log, records([3]))
    assert notary.sign_checkpoint() == signer.anchor()
