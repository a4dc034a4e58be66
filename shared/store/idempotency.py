"""What is stored about a request, so that a repeated request returns the first outcome."""

import hashlib
import hmac
from typing import NamedTuple

import structlog

from shared.store.record_mac import RecordMac

_log = structlog.get_logger(__name__)


class Idempotency(NamedTuple):
    """One caller's request: `name` identifies it, and `fingerprint` what was requested."""

    name: str
    fingerprint: str

    @classmethod
    def of(cls, caller: str, key: str, asked: bytes) -> "Idempotency":
        """By the caller's idempotency key and the request. Only hashes of both are stored."""
        return cls(f"{caller}:{_sha256(key.encode())}", _sha256(asked))


class IdempotencyConflictError(Exception):
    """The idempotency key was used for another request."""


class RecordedAppend(NamedTuple):
    """The events that a request appended: `number` of them, after a version of a subject."""

    version: int
    number: int
    subject: str


class IdempotencyRecords:
    """Encodes and decodes records. A code under the secret key authenticates them."""

    def __init__(self, secret_key: str) -> None:
        self._mac = RecordMac(secret_key, "idempotency") if secret_key else None

    def encode(self, idempotency: Idempotency, appended: RecordedAppend) -> bytes:
        """Raises ValueError without a secret key."""
        version, number, subject = appended
        body = f"{idempotency.fingerprint} {version} {number} {subject}".encode()
        return self._code(idempotency, body) + b" " + body

    def decode(self, record: bytes, idempotency: Idempotency) -> RecordedAppend | None:
        """Returns what a record says, or None for one that Keyledger didn't write.

        An attacker who can write such a record can also delete one, so ignoring it costs no safety. Trusting
        it would make a command look done. Raises IdempotencyConflictError.
        """
        code, _, body = record.partition(b" ")
        if not hmac.compare_digest(code, self._code(idempotency, body)):
            _log.warning("idempotency record rejected: it is not one that Keyledger wrote")
            return None
        fingerprint, version, number, subject = body.decode().split(" ", 3)
        if fingerprint != idempotency.fingerprint:
            raise IdempotencyConflictError
        return RecordedAppend(int(version), int(number), subject)

    def _code(self, idempotency: Idempotency, body: bytes) -> bytes:
        if self._mac is None:
            raise ValueError("idempotency needs the secret key")
        return self._mac(idempotency.name.encode(), body)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
