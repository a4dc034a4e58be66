"""Proof that tests can fail: each guard is removed from a copy of the code, and a test must then fail."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.drill, pytest.mark.timeout(300)]

_ROOT = Path(__file__).parents[2]
_COPIED = ("services", "shared", "tests", "pyproject.toml")
_LEDGER, _VIEWS, _REBUILD = (
    "shared/eventstore/ledger.py",
    "services/keys/read_model/generations.py",
    "services/keys/read_model/rebuild/build.py",
)
_LEASE = "services/keys/read_model/rebuild/lease.py"
_REPLAY = "services/keys/read_model/rebuild/replay.py"
_SUBSCRIPTION, _SCRIPTS = "shared/eventstore/subscription.py", "shared/eventstore/scripts.py"
_OF_LEDGER, _OF_VIEWS = "tests/shared/eventstore/test_ledger.py", "tests/keys/read_model/test_views.py"
_OF_MACHINE = "tests/keys/test_state_machine.py"
_GREEN, _RED = 0, 1  # pytest's other statuses mean that it found no tests or couldn't run them


@dataclass(frozen=True)
class Edit:
    """A guard's source text, and the text that replaces it."""

    file: str
    text: str
    without: str


@dataclass(frozen=True)
class Guard:
    """A guard that a promise depends on, and the tests that must fail without it."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


_VERSION = Edit(_SCRIPTS, "if version ~= tonumber(ARGV[1]) then", "if false then")
_RECORD = Edit(_SCRIPTS, "if record and record ~= ARGV[4] then return", "if false then return")
_RECORDED = Edit(
    _SCRIPTS, "redis.call('SET', KEYS[3], ARGV[2],", "redis.call('SET', KEYS[3] .. '-lost', ARGV[2],"
)
_FINGERPRINT = Edit("shared/store/idempotency.py", "if fingerprint != idempotency.fingerprint:", "if False:")
_GUARDED = Edit(_SCRIPTS, "if guarded ~= tonumber(ARGV[last_event]) then", "if false then")
_COMPARED = Edit(_VIEWS, "Checkpoint.parse(checkpoint) == expected and", "True and")
_WATCHED = Edit(_VIEWS, "pipe.watch(*self.guards)", "pipe.watch('{kl:0}:none')")
_HEAD = Edit(_LEDGER, "return bool(records) and _checkpoint(records[0]) == checkpoint", "return True")
_HEAD_ID = Edit(_LEDGER, "and _checkpoint(records[0]) == checkpoint", "")
_HEAD_SEEN = Edit(_SUBSCRIPTION, "if not all(map(self._ledger.holds, {before, self._seen})):", "if False:")
_HEAD_SEEN_EVER = Edit(_SUBSCRIPTION, "if not all(map(", "if not records and not all(map(")
_HEAD_HELD = Edit(_REPLAY, "if not ledger.holds(new.checkpoint()):", "if False:")
_DIGEST = Edit(_REPLAY, "return self.live_digest == self.copy_digest", "return True")
_ONE_LEASE = Edit(_LEASE, "LEASE, acquired.token, nx=True,", "LEASE, acquired.token,")
_KEPT_LEASE = Edit(_LEASE, "return value == self.token.encode()", "return True")
_REBUILT_ALONE = Edit(_REBUILD, "if transaction and transaction[-1] is None:", "if False:")
_REBUILT_ON = Edit(_REBUILD, "if not self._generation.may_write(expected, self._guards):", "if False:")
_STRICT = Edit(_REBUILD, "for key_id, reason in changes.parked.items():", "for key_id, reason in ():")
_HELD = Edit(_VIEWS, "expected and hold is None", "expected")
_NOT_BEHIND = Edit(_LEASE, "views.live() != old or (behind and not even_if_behind)", "views.live() != old")

GUARDS = (
    Guard(
        "the version check of the append",
        (_VERSION,),
        (f"{_OF_LEDGER}::test_an_append_at_a_wrong_version_is_a_conflict_and_writes_nothing",),
    ),
    Guard(
        "the look at the idempotency record in the append",
        (_RECORD,),
        (f"{_OF_LEDGER}::test_a_repeated_request_is_recognized_before_its_version_is_checked",),
    ),
    Guard(
        "the idempotency record that an append writes",
        (_RECORDED,),
        (f"{_OF_LEDGER}::test_a_repeated_request_returns_the_first_outcome_despite_later_events",),
    ),
    Guard(
        "the fingerprint of a request",
        (_FINGERPRINT,),
        (f"{_OF_LEDGER}::test_reusing_an_idempotency_key_for_another_request_is_a_conflict",),
    ),
    Guard(
        "the version of the caller's own account",
        (_GUARDED,),
        (f"{_OF_LEDGER}::test_a_guard_at_a_wrong_version_is_a_conflict_and_writes_nothing",),
    ),
    Guard(
        "the checkpoint comparison of a save, and its watch",
        (_COMPARED, _WATCHED),
        (f"{_OF_VIEWS}::test_a_batch_that_another_projector_saved_first_writes_nothing",),
    ),
    Guard(
        "the checkpoint comparison of a save alone",
        (_COMPARED,),
        (f"{_OF_VIEWS}::test_a_batch_that_another_projector_saved_first_writes_nothing",),
    ),
    Guard(
        "the watch of a save alone",
        (_WATCHED,),
        (f"{_OF_VIEWS}::test_a_batch_whose_checkpoint_moves_during_the_save_writes_nothing",),
    ),
    Guard(
        "the head check",
        (_HEAD,),
        (
            f"{_OF_LEDGER}::test_a_checkpoint_is_invalid_after_the_ledger_went_backwards",
            f"{_OF_VIEWS}::test_the_projector_rebuilds_when_the_ledger_went_backwards",
        ),
    ),
    Guard(
        "the event's id in the head check",
        (_HEAD_ID,),
        (f"{_OF_LEDGER}::test_a_checkpoint_is_invalid_after_the_ledger_went_backwards",),
    ),
    Guard(
        "the projector's look at the head",
        (_HEAD_SEEN,),
        (f"{_OF_VIEWS}::test_the_projector_rebuilds_when_the_ledger_went_backwards",),
    ),
    Guard(
        "the projector's look at the head when there is a page",
        (_HEAD_SEEN_EVER,),
        (f"{_OF_MACHINE}::test_a_ledger_that_went_backwards_and_grew_past_the_views_is_detected",),
    ),
    Guard(
        "the look at the head before the switch",
        (_HEAD_HELD,),
        (f"{_OF_MACHINE}::test_a_rebuild_fails_if_the_ledger_goes_backwards_during_it",),
    ),
    Guard(
        "the digest that the check compares",
        (_DIGEST,),
        (f"{_OF_VIEWS}::test_a_check_names_the_entry_that_differs",),
    ),
    Guard(
        "the lease that one rebuild has at a time",
        (_ONE_LEASE,),
        (f"{_OF_VIEWS}::test_only_one_replay_runs_at_a_time",),
    ),
    Guard(
        "the lease that a rebuild must still have",
        (_KEPT_LEASE,),
        (f"{_OF_MACHINE}::test_a_rebuild_that_loses_its_lease_fails_and_keeps_the_old_views",),
    ),
    Guard(
        "the checkpoint comparison of a rebuild, and its watch",
        (_REBUILT_ON, _REBUILT_ALONE),
        (f"{_OF_MACHINE}::test_a_rebuild_whose_new_views_are_deleted_fails_and_keeps_the_old_ones",),
    ),
    Guard(
        "the strictness of a rebuild",
        (_STRICT,),
        (f"{_OF_VIEWS}::test_a_replay_of_an_unreadable_event_fails_and_keeps_the_old_views",),
    ),
    Guard(
        "the hold of a check",
        (_HELD,),
        (f"{_OF_VIEWS}::test_a_check_pauses_the_projectors_and_leaves_no_copy",),
    ),
    Guard(
        "the comparison of the switch",
        (_NOT_BEHIND,),
        (f"{_OF_MACHINE}::test_a_rebuild_catches_up_before_it_replaces_the_old_views",),
    ),
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copies the code and its tests to a place where they can be modified."""
    for name in _COPIED:
        if (_ROOT / name).is_dir():
            shutil.copytree(_ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(_ROOT / name, tmp_path)
    # This plugin shows which code the tests ran on: the installed one would be unmodified.
    (tmp_path / "whence.py").write_text(
        "from services.keys.read_model import generations\n"
        "from services.keys.read_model.rebuild import build\n"
        "from shared.eventstore import ledger\n"
        "def pytest_report_header():\n"
        "    return [f'ran on {module.__file__}' for module in (ledger, build, generations)]\n"
    )
    return tmp_path


def ran(copy: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """Runs the copy's tests on the copy, and returns the exit status and the output."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "whence", "-p", "no:cacheprovider", *tests]
    # No bytecode, because an edit within the same second as a compilation could be missed.
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    for module in (_LEDGER, _REBUILD, _VIEWS):
        assert f"ran on {copy / module}" in result.stdout, result.stdout + result.stderr
    return result.returncode, result.stdout


def without(copy: Path, edit: Edit) -> None:
    """Removes a guard from the copy."""
    file = copy / edit.file
    code = file.read_text()
    assert code.count(edit.text) == 1, f"{edit.file} has not, or not once: {edit.text}"
    file.write_text(code.replace(edit.text, edit.without))


def test_the_tests_pass_with_every_guard_in_place(copy: Path) -> None:
    tests = tuple(dict.fromkeys(test for guard in GUARDS for test in guard.tests))
    status, output = ran(copy, tests)
    assert status == _GREEN, output
    print(f"\nwith every guard: {len(tests)} tests, all green")


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name.replace(" ", "-"))
def test_removing_a_guard_makes_each_of_its_tests_fail(copy: Path, guard: Guard) -> None:
    for edit in guard.edits:
        without(copy, edit)
    # One at a time: each of these tests must fail on its own.
    for test in guard.tests:
        status, output = ran(copy, (test,))
        assert status == _RED, output
        failed = re.search(r"(?m)^FAILED \S+?::(.+?)(?: - |$)", output)
        reason = re.search(r"(?m)^E +(.+)", output)
        assert failed, output
        assert reason, output
        print(f"\nwithout {guard.name}: red is {failed[1]}: {reason[1][:100]}")
