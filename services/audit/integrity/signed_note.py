"""Signed notes: a text, an empty line, and signature lines (https://c2sp.org/signed-note). Pure.

A signature line is `— <name of the key> <base64 of the key's id and the Ed25519 signature of the text>`.
Public keys are written as Go's verifier keys: `<name>+<id, 8 hex digits>+<base64 of 0x01 and the key>`.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519 = b"\x01"
_ID_BYTES = 4
_MAX_SIGNATURES = 100
_DASH = "—"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_ID = re.compile(r"[0-9a-f]{8}")


class NoteError(Exception):
    """A note doesn't have the form or the signature that it must have; the message says which."""


class PublicKeyError(ValueError):
    """A text isn't a valid public key."""


class _Signature(NamedTuple):
    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class PublicKey:
    """A named Ed25519 key that verifies signatures."""

    name: str
    key: Ed25519PublicKey

    @classmethod
    def of_text(cls, text: str) -> "PublicKey":
        """The inverse of `str`. Raises PublicKeyError."""
        name, _, rest = text.partition("+")
        key_id, _, encoded = rest.partition("+")
        key = _decoded(encoded)
        if not _is_name(name) or not _ID.fullmatch(key_id) or len(key) != 33 or key[:1] != _ED25519:
            raise PublicKeyError("It must look like keyledger-audit+0a1b2c3d+AbCd…=.")
        public_key = cls(name, Ed25519PublicKey.from_public_bytes(key[1:]))
        if public_key.key_id.hex() != key_id:
            raise PublicKeyError(f"Its ID isn't {key_id}: a character of it is wrong.")
        return public_key

    @property
    def key_id(self) -> bytes:
        """Four bytes that distinguish keys. Only a signature proves that a key is the right one."""
        named = self.name.encode() + b"\n" + _ED25519 + self.key.public_bytes_raw()
        return hashlib.sha256(named).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        key = base64.b64encode(_ED25519 + self.key.public_bytes_raw()).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"


def signed(text: str, name: str, key: Ed25519PrivateKey) -> bytes:
    """Signs a text that ends with a newline. Raises NoteError for a text that a note can't have."""
    signature = PublicKey(name, key.public_key()).key_id + key.sign(text.encode())
    note = f"{text}\n{_DASH} {name} {base64.b64encode(signature).decode()}\n".encode()
    if _components(note)[0] != text:
        raise NoteError("it doesn't end with a newline")
    return note


def opened(note: bytes, public_key: PublicKey) -> str:
    """The text of a note, if the key signed it. Other signatures are ignored. Raises NoteError."""
    text, signatures = _components(note)
    of_key = [each for each in signatures if (each.name, each.key_id) == (public_key.name, public_key.key_id)]
    if not of_key:
        raise NoteError(f"it isn't signed by {public_key.name}+{public_key.key_id.hex()}")
    for each in of_key:
        try:
            public_key.key.verify(each.signature, text.encode())
        except InvalidSignature:
            raise NoteError("its signature doesn't match its text") from None
    return text


def text_of(note: bytes) -> str:
    """The text of a note, without verifying the signature. Raises NoteError."""
    return _components(note)[0]


def _components(note: bytes) -> tuple[str, list[_Signature]]:
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteError("it isn't UTF-8") from None
    if _CONTROL.search(whole):
        raise NoteError("it has a control character")
    text, separator, lines = whole.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise NoteError("it doesn't end with signature lines")
    signatures = lines[:-1].split("\n")
    if len(signatures) > _MAX_SIGNATURES:
        raise NoteError("it has too many signatures")
    return text + "\n", [_signature(line) for line in signatures]


def _signature(line: str) -> _Signature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    decoded = _decoded(encoded)
    if dash != _DASH or not _is_name(name) or len(decoded) <= _ID_BYTES:
        raise NoteError("it has an invalid signature line")
    return _Signature(name, decoded[:_ID_BYTES], decoded[_ID_BYTES:])


def _is_name(text: str) -> bool:
    return bool(text) and "+" not in text and not any(character.isspace() for character in text)


def _decoded(text: str) -> bytes:
    """The bytes of a base64 text in its canonical form; no bytes for any other text."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return value if base64.b64encode(value).decode() == text else b""
