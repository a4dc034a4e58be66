"""Passwords: argon2id by argon2-cffi, whose defaults are the second choice of RFC 9106, section 4."""

import secrets
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from shared.errors import InvalidFieldError

PASSWORD_MIN_LENGTH = 12
PASSWORD_MAX_LENGTH = 1024
# 32 characters that are not taken for each other, so 5 bits each.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_NEW_LENGTH = 20
# Each takes 64 MiB while it lasts. Where many sign in at once they wait, so that memory can be limited.
_AT_ONCE = BoundedSemaphore(2)


def new_password() -> str:
    """A password of 100 random bits, for a first sign-in."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_NEW_LENGTH))


@dataclass(frozen=True)
class Passwords:
    """Hashes passwords and verifies them; the hasher's parameters say how hard that is."""

    hasher: PasswordHasher = field(default_factory=PasswordHasher)

    def hash_password(self, password: str) -> str:
        """What is kept of a new password. Raises InvalidFieldError."""
        prepared = _prepared(password)
        if len(prepared) < PASSWORD_MIN_LENGTH:
            raise InvalidFieldError(
                "password", f"The password must have at least {PASSWORD_MIN_LENGTH} characters."
            )
        if len(prepared) > PASSWORD_MAX_LENGTH:
            raise InvalidFieldError(
                "password", f"The password may have {PASSWORD_MAX_LENGTH:,} characters at most."
            )
        with _AT_ONCE:
            return self.hasher.hash(_bytes(prepared))

    def verify(self, kept: str | None, password: str) -> bool:
        """Whether the password is the one that is kept; where none is kept, no, after the same work.

        Raises argon2.exceptions.Argon2Error on a hash that cannot be read.
        """
        # Made here in either case, so that not even the first sign-in tells who is unknown.
        nobody = self._nobody
        try:
            with _AT_ONCE:
                self.hasher.verify(nobody if kept is None else kept, _bytes(_prepared(password)))
        except VerifyMismatchError:
            return False
        return kept is not None

    @cached_property
    def _nobody(self) -> str:
        """The hash of a password that nobody has."""
        return self.hasher.hash(secrets.token_bytes(32))


def _prepared(password: str) -> str:
    """One form of what keyboards send in several (RFC 8265, 4.2)."""
    return unicodedata.normalize("NFC", password)


def _bytes(password: str) -> bytes:
    # Half a surrogate pair, which a command line can hand in, must be no crash.
    return password.encode("utf-8", "surrogatepass")
