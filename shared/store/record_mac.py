"""Message authentication codes for records in the store, which others may be able to write to."""

import hmac


class RecordMac:
    """Authenticates records of one kind by HMAC-SHA-256, under a key derived for it from the secret key.

    A record's fields include where it is stored, so that a valid record can't be copied to another place.
    """

    def __init__(self, secret_key: str, kind: str) -> None:
        """Raises ValueError without a secret key."""
        if not secret_key:
            raise ValueError("records are authenticated with a secret key, and there is none")
        self._key = hmac.digest(secret_key.encode(), f"keyledger {kind}".encode(), "sha256")

    def __call__(self, *fields: bytes) -> bytes:
        """The code of a record: 64 hexadecimal digits."""
        message = b"".join(len(field).to_bytes(4) + field for field in fields)
        return hmac.digest(self._key, message, "sha256").hex().encode()

    def verify(self, code: bytes, *fields: bytes) -> bool:
        """Whether this is the code of the record, compared in constant time."""
        return hmac.compare_digest(code, self(*fields))
