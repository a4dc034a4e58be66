"""Validation of backup files."""

from collections.abc import Callable
from hashlib import sha256
from io import BytesIO

import pytest

from services.backup.format import Credential, Header, OtherFileError, Reader, events_of, lines, verify_whole
from shared.text.sealed_jsonl import DamagedFileError
from tests.shared.eventstore.test_export import FOUR, toggled

EVENTS = [toggled(position) for position in range(1, 4)]
NOTES = [b"one\n\n\xe2\x80\x94 key c2ln\n", b"two\n"]
CREDENTIALS = [Credential("account:ann@example.org", "$argon2id$v=19$…")]


def header(**changes: object) -> Header:
    values = {"taken_at": "2026-11-23T18:59:21.123Z", "keyledger": "0.1.0", "events": 3, "checkpoints": 2}
    return Header(**values | changes)  # type: ignore[arg-type]  # the names and types are the class's


def file_of(head: Header) -> list[bytes]:
    return list(lines(head, NOTES, EVENTS, CREDENTIALS))


WHOLE = file_of(header())


def read(file: list[bytes]) -> tuple[object, ...]:
    verify_whole(file)
    reader = Reader(file)
    return reader.header, reader.notes(), [*reader.records()], reader.credentials()


def sealed(file: list[bytes]) -> list[bytes]:
    """Returns the file with a matching trailer."""
    digest = sha256(b"".join(file)).hexdigest().encode()
    return [*file, b'{"trailer":{"sha256":"' + digest + b'"}}\n']


def test_a_written_backup_reads_back_unchanged() -> None:
    assert read(WHOLE) == (header(), NOTES, EVENTS, CREDENTIALS)
    assert [*events_of(BytesIO(b"".join(WHOLE)))] == EVENTS
    assert sealed(WHOLE[:-1]) == WHOLE


def test_any_flipped_bit_or_truncation_is_rejected() -> None:
    whole = b"".join(WHOLE)
    for index in range(len(whole)):
        flipped = bytearray(whole)
        flipped[index] ^= 1 << index % 8
        for damaged in (bytes(flipped), whole[:index]):
            with pytest.raises((DamagedFileError, OtherFileError)):
                verify_whole(BytesIO(damaged))


DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "without a checkpoint": lambda file: [*file[:1], *file[2:]],
    "with a checkpoint more": lambda file: [*file[:2], *file[1:]],
    "with an event instead of a checkpoint": lambda file: [*file[:2], *file[3:]],
    "without the last event": lambda file: [*file[:5], *file[6:]],
    "with an event of another ledger": lambda file: [*file[:3], FOUR[1], *file[4:]],
    "without the trailer of the ledger": lambda file: [*file[:6], *file[7:]],
    "with another trailer of the ledger": lambda file: [*file[:6], FOUR[-1], *file[7:]],
    "with an event behind the ledger": lambda file: [*file[:7], file[3], *file[7:]],
    "with a password of nobody": lambda file: [*file[:7], b'{"credential":{"value":"x"}}\n'],
    "with a password that is none": lambda file: [*file[:7], b'{"credential":"x"}\n'],
    "with bytes that are no text": lambda file: [*file[:7], b'{"credential":"\xff"}\n'],
    "with half a header": lambda file: [b'{"backup":{"format":1}}\n', *file[1:]],
    "with a header that says more": lambda file: [file[0].replace(b'{"f', b'{"more":1,"f'), *file[1:]],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_with_a_recomputed_checksum_is_rejected(damage: str) -> None:
    with pytest.raises(DamagedFileError):
        read(sealed(DAMAGE[damage](WHOLE[:-1])))


OTHERS = {
    b"": "is empty",
    b"".join(FOUR): "is an export of the ledger, .*: `keyledger import` fills",
    b'{"entry_hash":"00"}\n': "is an export of the audit log, .*: `keyledger audit check --file` verifies it",
    b"age-encryption.org/v1\n": "isn't a Keyledger backup: if it is encrypted, decrypt it first",
    b'{"backup":1}\n': "isn't a Keyledger backup",
    b"[" * 50_000 + b"\n": "isn't a Keyledger backup",
    b"\xff\x00\n": "isn't a Keyledger backup",
    b"".join(file_of(header(format=2, keyledger="9.1"))): "is a backup of format 2, .* Keyledger 9.1$",
}


@pytest.mark.parametrize("content", OTHERS, ids=OTHERS.values())
def test_a_file_that_is_not_a_backup_is_rejected_with_its_kind(content: bytes) -> None:
    with pytest.raises(OtherFileError, match=OTHERS[content]):
        verify_whole(BytesIO(content))
