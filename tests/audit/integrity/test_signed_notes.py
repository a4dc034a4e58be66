"""Signed notes, checked against those of Go's own tests and its checksum database."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.audit.integrity.signed_note import NoteError, PublicKey, PublicKeyError, opened, signed, text_of

# From the tests of golang.org/x/mod/sumdb/note.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
OF_PETER = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ"
    "SNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
OF_ENOCH = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGr"
    "Q5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# A tree head published by sum.golang.org, with a second signature by another key.
GO = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
TREE_HEAD = (
    "go.sum database tree\n"
    "15067302\n"
    "gJyioq6dwR9n+NjEWORfYmH+ubeYm3kH42BBQ0bTpYI=\n"
    "\n"
    "— sum.golang.org Az3grp1rvWOs5NKlr/xR4GLN/CDyzzakmt1o61uSxYKpK1SerqOP2ClbX/pe"
    "KUZjYnyomH5Xz7GZG3TpB7OeKn4E2ww=\n"
    "— test.example.com qTGhC/xIPQ0AXKHK6Y+9ypRfuvMZWPjRXM8NiOg5M1WREn07VQXyuIXM3NRN"
    "av3ieVFLUqDRK77PWDmL6w8w84UqeAw=\n"
)


def read(note: str, key: str = PETER) -> str:
    return opened(note.encode(), PublicKey.of_text(key))


def test_a_note_signed_by_go_is_valid() -> None:
    assert read(f"{TEXT}\n{OF_PETER}") == TEXT
    assert read(f"{TEXT}\n{OF_PETER}{OF_ENOCH}", ENOCH) == TEXT


def test_a_published_tree_head_with_another_signature_is_valid() -> None:
    assert read(TREE_HEAD, GO).startswith("go.sum database tree\n15067302\n")


def test_signing_produces_the_same_note_as_go() -> None:
    key = Ed25519PrivateKey.from_private_bytes(PETERS_SEED)
    assert signed(TEXT, "PeterNeumann", key).decode() == f"{TEXT}\n{OF_PETER}"
    assert str(PublicKey("PeterNeumann", key.public_key())) == PETER


@pytest.mark.parametrize("key", [PETER, ENOCH, GO])
def test_a_public_key_round_trips_through_its_text(key: str) -> None:
    assert str(PublicKey.of_text(key)) == key


def test_a_public_key_with_any_changed_character_is_rejected() -> None:
    for number in range(len(PETER)):
        for mangled in (PETER[:number], PETER[number + 1 :], PETER[:number] + "~" + PETER[number + 1 :]):
            with pytest.raises(PublicKeyError):
                PublicKey.of_text(mangled)


@pytest.mark.parametrize(
    "key",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # too long
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # of another kind
        "",
        "++",
    ],
)
def test_a_key_of_another_kind_or_length_is_rejected(key: str) -> None:
    with pytest.raises(PublicKeyError):
        PublicKey.of_text(key)


MALFORMED = {
    "no signature": TEXT,
    "no line": f"{TEXT}\n",
    "no newline at the end": f"{TEXT}\n{OF_PETER[:-1]}",
    "a control character": f"\x01{TEXT}\n{OF_PETER}",
    "a carriage return": f"{TEXT}\r\n\n{OF_PETER}",
    "a name with a space": f"{TEXT}\n{OF_PETER.replace('PeterNeumann', 'Peter Neumann')}",
    "a name with a plus": f"{TEXT}\n{OF_PETER}{OF_ENOCH.replace('EnochRoot', 'Enoch+Root')}",
    "no name": f"{TEXT}\n{OF_PETER.replace('PeterNeumann', '')}",
    "another line": f"{TEXT}\n{OF_PETER}Unexpected line.\n",
    "an empty line at the end": f"{TEXT}\n{OF_PETER}\n",
    "another dash": f"{TEXT}\n{OF_PETER.replace('—', '-')}",
    "an id alone": f"{TEXT}\n— PeterNeumann x08gow==\n",
    "too many signatures": f"{TEXT}\n{OF_PETER * 101}",
    "base64 with other last bits": f"{TEXT}\n{OF_PETER.replace('nAM=', 'nAN=')}",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_note_is_rejected(name: str) -> None:
    with pytest.raises(NoteError):
        read(MALFORMED[name])
    with pytest.raises(NoteError):
        text_of(MALFORMED[name].encode())


def test_a_note_that_is_not_utf8_is_rejected() -> None:
    with pytest.raises(NoteError, match="UTF-8"):
        opened(b"\xff" + f"{TEXT}\n{OF_PETER}".encode(), PublicKey.of_text(PETER))


def test_a_note_not_signed_by_the_key_is_rejected() -> None:
    with pytest.raises(NoteError, match=r"isn't signed by PeterNeumann\+c74f20a3"):
        read(f"{TEXT}\n{OF_ENOCH}")


def test_a_signature_of_another_text_is_rejected_even_next_to_a_valid_one() -> None:
    other = signed("another\n", "PeterNeumann", Ed25519PrivateKey.from_private_bytes(PETERS_SEED)).decode()
    for lines in (other.split("\n\n")[1], OF_PETER + other.split("\n\n")[1]):
        with pytest.raises(NoteError, match="its signature doesn't match its text"):
            read(f"{TEXT}\n{lines}")


def test_a_signature_under_the_right_id_and_another_name_does_not_count() -> None:
    with pytest.raises(NoteError, match="isn't signed by"):
        read(f"{TEXT}\n{OF_PETER.replace('PeterNeumann', 'Peter')}")


def test_a_note_text_can_contain_empty_lines() -> None:
    key = Ed25519PrivateKey.generate()
    note = signed("one\n\ntwo\n\n", "me", key)
    assert opened(note, PublicKey("me", key.public_key())) == "one\n\ntwo\n\n"


@pytest.mark.parametrize("text", ["", "no newline", "a\tb\n", "one\n\ntwo"])
def test_text_that_is_invalid_in_a_note_is_not_signed(text: str) -> None:
    with pytest.raises(NoteError):
        signed(text, "me", Ed25519PrivateKey.generate())


@given(st.text(st.characters(codec="utf-8", min_codepoint=32)), st.binary(min_size=32, max_size=32))
def test_a_signed_note_opens_only_with_its_own_key(text: str, seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    note = signed(f"{text}\n", "me", key)
    assert opened(note, PublicKey("me", key.public_key())) == f"{text}\n"
    with pytest.raises(NoteError):
        opened(note, PublicKey.of_text(PETER))
