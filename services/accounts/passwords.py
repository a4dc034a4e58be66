"""Passwords: argon2id by argon2-cffi, whose defaults are the second choice of RFC 9106, section 4."""

import os
import secrets
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from threading import BoundedSemaphore
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from shared.errors import InvalidFieldError, UserFacingError

PASSWORD_MIN_LENGTH = 12
PASSWORD_MAX_LENGTH = 1024
# 32 characters that are not taken for each other, so 5 bits each.
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_NEW_LENGTH = 20
# A hash takes 64 MiB of memory and all cores while it lasts.
_AT_ONCE = 1
_WAITING = 4  # requests that may wait for it, each of which holds a thread of the web process
# Beside 40 password changes at once, verify's p99 was 22 ms; without lower priority 30, with two hashes 66.
_NICE = 10

_T = TypeVar("_T")


class HasherBusyError(UserFacingError):
    """Too many passwords are being hashed already; nothing was done."""

    status = 503
    retry_after = 2  # seconds

    def __init__(self) -> None:
        super().__init__(
            "Too many passwords are being checked right now. Wait a few seconds, then try again."
        )


def new_password() -> str:
    """A password of 100 random bits, for a first sign-in."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_NEW_LENGTH))


@dataclass(frozen=True)
class Passwords:
    """Hashes and verifies passwords; the hasher's parameters say how hard that is.

    The work is done on a thread with a low priority, so that verifying keys goes first. Few requests may wait
    for it: all that hash raise HasherBusyError when too many do. A process has one of these.
    """

    hasher: PasswordHasher = field(default_factory=PasswordHasher)
    _places: BoundedSemaphore = field(
        default_factory=lambda: BoundedSemaphore(_AT_ONCE + _WAITING), repr=False, compare=False
    )
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_AT_ONCE, "passwords", initializer=_lower_priority),
        repr=False,
        compare=False,
    )

    def check(self, password: str) -> None:
        """Whether it may be anybody's new password, which costs no hash. Raises InvalidFieldError."""
        prepared = _prepared(password)
        if len(prepared) < PASSWORD_MIN_LENGTH:
            raise InvalidFieldError(
                "password", f"The password must have at least {PASSWORD_MIN_LENGTH} characters."
            )
        if len(prepared) > PASSWORD_MAX_LENGTH:
            raise InvalidFieldError(
                "password", f"The password can have up to {PASSWORD_MAX_LENGTH:,} characters."
            )

    def hash_password(self, password: str) -> str:
        """The stored form of a new password. Raises InvalidFieldError."""
        self.check(password)
        return self._run(lambda: self._hash(password))

    def verify(self, kept: str | None, password: str) -> bool:
        """Whether the password is the one that is kept; where none is kept, no, after the same work.

        Raises argon2.exceptions.Argon2Error on a hash that cannot be read.
        """
        return self._run(lambda: self._verify(kept, password))

    def replace(self, kept: str | None, current: str, new: str) -> str | None:
        """The stored form of a new password, if the current one is right. Raises what the two above do."""
        self.check(new)
        return self._run(lambda: self._hash(new) if self._verify(kept, current) else None)

    def _run(self, work: Callable[[], _T]) -> _T:
        if not self._places.acquire(blocking=False):
            raise HasherBusyError
        try:
            return self._threads.submit(work).result()
        finally:
            self._places.release()

    def _hash(self, password: str) -> str:
        return self.hasher.hash(_bytes(_prepared(password)))

    def _verify(self, kept: str | None, password: str) -> bool:
        # Made here in either case, so that not even the first sign-in tells who is unknown.
        nobody = self._nobody
        try:
            self.hasher.verify(nobody if kept is None else kept, _bytes(_prepared(password)))
        except VerifyMismatchError:
            return False
        return kept is not None

    @cached_property
    def _nobody(self) -> str:
        """The hash of a password that nobody has."""
        return self.hasher.hash(secrets.token_bytes(32))


def _lower_priority() -> None:
    """Of this thread and those that it starts; elsewhere than on Linux only a process has a priority."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, thread) + _NICE
            os.setpriority(os.PRIO_PROCESS, thread, nice)


def _prepared(password: str) -> str:
    """One form of what keyboards send in several (RFC 8265, 4.2)."""
    return unicodedata.normalize("NFC", password)


def _bytes(password: str) -> bytes:
    # Half a surrogate pair, which a command line can hand in, must be no crash.
    return password.encode("utf-8", "surrogatepass")
