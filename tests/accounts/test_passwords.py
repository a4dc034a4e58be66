"""Passwords are hashed with argon2id, and unknown accounts cost the same work as known ones."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event, get_native_id

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError
from argon2.low_level import Type

from services.accounts.passwords import HasherBusyError, Passwords, new_password
from shared.errors import InvalidFieldError
from tests.support.processes import until

PASSWORD = "correct horse battery"


class CountingHasher(PasswordHasher):
    """A cheap hasher that records the hashes it verified against."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.hashed = 0
        self.verified: list[str] = []

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.hashed += 1
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002
        self.verified.append(str(hash))
        return super().verify(hash, password)


@pytest.fixture
def hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture
def passwords(hasher: CountingHasher) -> Passwords:
    return Passwords(hasher)


def test_only_the_right_password_verifies(passwords: Passwords) -> None:
    kept = passwords.hash_password(PASSWORD)
    assert passwords.verify(kept, PASSWORD)
    assert not passwords.verify(kept, PASSWORD + " ")
    assert not passwords.verify(kept, "")


def test_no_password_verifies_without_a_stored_hash(passwords: Passwords) -> None:
    assert not passwords.verify(None, PASSWORD)


def test_verification_without_a_stored_hash_fails_even_if_the_hasher_matches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CountingHasher, "verify", lambda *_: True)
    assert not Passwords(CountingHasher()).verify(None, PASSWORD)


def test_an_unknown_account_costs_the_same_work_as_a_known_one(
    hasher: CountingHasher, passwords: Passwords
) -> None:
    kept = passwords.hash_password(PASSWORD)
    passwords.verify(kept, "wrong password")
    passwords.verify(None, "wrong password")
    known, unknown = hasher.verified
    assert extract_parameters(known) == extract_parameters(unknown)


@pytest.mark.parametrize("first_is_known", [True, False])
def test_the_first_verification_costs_the_same_work_as_later_ones(
    hasher: CountingHasher, passwords: Passwords, first_is_known: bool
) -> None:
    kept = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    for _ in range(3):
        passwords.verify(kept if first_is_known else None, "wrong password")
    assert (hasher.hashed, len(hasher.verified)) == (1, 3)


def test_the_default_is_argon2id_with_the_rfc_9106_parameters() -> None:
    parameters = extract_parameters(Passwords().hash_password(PASSWORD))
    assert parameters.type is Type.ID
    assert (parameters.time_cost, parameters.memory_cost, parameters.parallelism) == (3, 64 * 1024, 4)
    assert (parameters.salt_len, parameters.hash_len) == (16, 32)


@pytest.mark.parametrize(
    ("password", "rule"),
    [("", "at least 12"), ("a" * 11, "at least 12"), ("a" * 1025, "up to 1,024 characters")],
)
def test_a_password_that_is_too_short_or_too_long_is_rejected(
    passwords: Passwords, password: str, rule: str
) -> None:
    with pytest.raises(InvalidFieldError, match=rf"^The password .*{rule}") as refusal:
        passwords.hash_password(password)
    assert refusal.value.field == "password"
    assert not password or password not in str(refusal.value)


@pytest.mark.parametrize("password", ["a" * 12, "a" * 1024, "пароль пароль", "half a pair \ud800"])
def test_any_text_of_valid_length_is_accepted_as_a_password(passwords: Passwords, password: str) -> None:
    assert passwords.verify(passwords.hash_password(password), password)


def test_equivalent_unicode_forms_of_a_password_match(passwords: Passwords) -> None:
    assert passwords.verify(
        passwords.hash_password("caf\u00e9 caf\u00e9 caf\u00e9"), "cafe\u0301 cafe\u0301 cafe\u0301"
    )


def test_an_unreadable_hash_raises_an_error(passwords: Passwords) -> None:
    with pytest.raises(InvalidHashError):
        passwords.verify("rubbish", PASSWORD)


def test_generated_passwords_are_unique_and_valid(passwords: Passwords) -> None:
    made = {new_password() for _ in range(100)}
    assert len(made) == 100
    assert all(passwords.hash_password(password) for password in made)


class HeldHasher(CountingHasher):
    """Blocks each verification until it is released, and records the peak concurrency."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = Event()
        self.started = 0
        self.at_once = 0
        self.most_at_once = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002
        self.started += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.let_go.wait(10)
        self.at_once -= 1
        return super().verify(hash, password)


def test_one_verification_runs_four_wait_and_the_rest_are_refused_immediately() -> None:
    hasher = HeldHasher()
    passwords = Passwords(hasher)

    def verify(_: int) -> str:
        try:
            return str(passwords.verify(None, PASSWORD))
        except HasherBusyError as refusal:
            return f"{refusal.status}, and again in {refusal.retry_after} s"

    with ThreadPoolExecutor(40) as clients:
        answers = [clients.submit(verify, number) for number in range(40)]
        try:
            until(lambda: sum(answer.done() for answer in answers) == 35)
            assert {answer.result() for answer in answers if answer.done()} == {"503, and again in 2 s"}
        finally:
            hasher.let_go.set()
        assert [answer.result() for answer in answers].count("False") == 5
    assert hasher.most_at_once == 1
    assert not passwords.verify(None, PASSWORD)


def test_a_failed_verification_frees_its_slot(passwords: Passwords) -> None:
    for _ in range(10):
        with pytest.raises(InvalidHashError):
            passwords.verify("rubbish", PASSWORD)
    assert not passwords.verify(None, PASSWORD)


class PriorityHasher(CountingHasher):
    """Records the priority of the thread it was called on."""

    nice = 0

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002
        self.nice = os.getpriority(os.PRIO_PROCESS, get_native_id())
        return super().verify(hash, password)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives threads a priority of their own")
def test_password_hashing_runs_at_a_lower_thread_priority() -> None:
    hasher = PriorityHasher()
    before = os.getpriority(os.PRIO_PROCESS, get_native_id())
    Passwords(hasher).verify(None, PASSWORD)
    assert hasher.nice == min(before + 10, 19)
    assert os.getpriority(os.PRIO_PROCESS, get_native_id()) == before


def test_a_new_password_is_hashed_only_if_the_current_one_is_correct(
    hasher: CountingHasher, passwords: Passwords
) -> None:
    kept = passwords.hash_password(PASSWORD)
    passwords.verify(None, PASSWORD)
    before = hasher.hashed
    assert passwords.replace(kept, "wrong password", "another password") is None
    assert passwords.replace(None, PASSWORD, "another password") is None
    assert hasher.hashed == before
    replaced = passwords.replace(kept, PASSWORD, "another password")
    assert passwords.verify(replaced, "another password")
    assert not passwords.verify(replaced, PASSWORD)
