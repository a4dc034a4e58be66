"""The private key that signs for the audit log: a file of its own, apart from the store and the database.

Next to it is the anchor: the last checkpoint that was signed. It is written after the database has that
checkpoint, so an intact database has the anchor among its own.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from services.audit.integrity.checkpoint import unverified
from services.audit.integrity.signed_note import NoteError, PublicKey, signed
from shared.errors import UserFacingError

KEY_NAME = "keyledger-audit"

_log = structlog.get_logger(__name__)


class SigningError(UserFacingError):
    """Nothing can be signed; the message is one line that says why, and what to do."""


class Signer:
    """The key, created at its first use, and the anchor. Everything except `keep` raises SigningError."""

    def __init__(self, key_file: Path) -> None:
        self.anchor_file = key_file.with_name(f"{key_file.name}.last")
        self._key_file = key_file
        self._keeps_anchor = True

    @cached_property
    def public_key(self) -> PublicKey:
        """The key that verifies the signatures."""
        return PublicKey(KEY_NAME, self._key.public_key())

    def sign(self, text: str) -> bytes:
        """Signs a text, and returns the note."""
        return signed(text, KEY_NAME, self._key)

    def anchor(self) -> bytes | None:
        """The note of the last checkpoint that was signed, or None if there is none."""
        try:
            return self.anchor_file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SigningError(f"{self.anchor_file} can't be read: {error.strerror}.") from error

    def keep(self, note: bytes) -> None:
        """Makes a checkpoint the anchor, unless that is a later one. Logs a warning if it can't."""
        try:
            with _alone_in(self._key_file.parent):
                if _sequence(self.anchor()) < _sequence(note):
                    draft = _draft(self.anchor_file, note)
                    draft.replace(self.anchor_file)
        except (OSError, SigningError) as error:
            if self._keeps_anchor:
                _log.warning("the last checkpoint is only in the database", reason=str(error))
            self._keeps_anchor = False

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        try:
            if not self._key_file.exists():
                self._make_key()
            key = load_pem_private_key(self._key_file.read_bytes(), None)
        except OSError as error:
            raise SigningError(
                f"The audit log's key file {self._key_file} can't be used: {error.strerror}. Create one with "
                "`openssl genpkey -algorithm ed25519`, and set KEYLEDGER_AUDIT_KEY_FILE to its path."
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None  # the parser's message may quote the file
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningError(f"{self._key_file} doesn't have an Ed25519 private key in PEM format.")
        return key

    def _make_key(self) -> None:
        """Written under another name, then linked: if several processes do so, all read the same key."""
        key = Ed25519PrivateKey.generate()
        draft = _draft(self._key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with suppress(FileExistsError):
            self._key_file.hardlink_to(draft)
        draft.unlink()
        with _alone_in(self._key_file.parent) as directory:
            os.fsync(directory)


def _draft(path: Path, content: bytes) -> Path:
    """Writes a temporary file next to another, readable only by its owner, and syncs it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return Path(name)


@contextmanager
def _alone_in(directory: Path) -> Iterator[int]:
    """Locks a directory, and returns its descriptor."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _sequence(note: bytes | None) -> int:
    try:
        return unverified(note).sequence if note else 0
    except NoteError:
        return 0
