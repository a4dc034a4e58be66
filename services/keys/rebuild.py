"""Replay: the views built anew beside the old ones and put in their place, or only compared with them."""

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from services.keys.views import Generation, Lease, Views
from shared.ledger import Ledger, checkpoint_at

_PAGE = 1_000
_HOLD_S = 60
_OLD_GENERATION_S = 2.0  # how long readers may go on with the old generation
_NAMED_DIFFERENCES = 20

Progress = Callable[[int, int], None]  # events done, events in the ledger


class RebuildError(Exception):
    """The views could not be rebuilt; the old ones still serve."""


@dataclass(frozen=True)
class Comparison:
    """The live views beside a copy that was built from the beginning to the same position."""

    position: int
    live_digest: str
    copy_digest: str
    differing: list[str]  # the first of the things that differ, by name

    @property
    def equal(self) -> bool:
        """Whether there is no difference."""
        return self.live_digest == self.copy_digest


def _silently(_done: int, _all: int) -> None:
    pass


def replay(ledger: Ledger, views: Views, progress: Progress = _silently) -> int:
    """Builds a new generation while the old one serves, then makes it the live one; gives its position.

    Interrupted anywhere, it can be run again. Raises RebuildError, redis.RedisError.
    """
    with views.lease() as lease:
        old, new = views.live(), views.generation(uuid.uuid4().hex)
        views.delete_all_but(old)
        while True:
            _build(ledger, new, lease, progress)
            # Views of events that the ledger has no more are ahead of it, and must go all the same.
            if views.flip(old, new, even_if_behind=not ledger.holds(old.checkpoint())):
                break
            if views.live() != old:
                raise RebuildError("Another replay finished first. There is nothing left to do.")
        position = new.checkpoint().position
        time.sleep(_OLD_GENERATION_S)
        views.delete_all_but(new)
    return position


def check(ledger: Ledger, views: Views, progress: Progress = _silently) -> Comparison:
    """Compares the live views with a copy built from the beginning, which is thrown away afterwards.

    The projectors are held only while the last events are added and the rows are compared.
    Raises RebuildError, redis.RedisError.
    """
    with views.lease() as lease:
        live, copy = views.live(), views.generation(uuid.uuid4().hex)
        views.delete_all_but(live)
        try:
            _build(ledger, copy, lease, progress, until=live.checkpoint().position)
            live.hold(_HOLD_S)
            _build(ledger, copy, lease, progress, until=live.checkpoint().position)
            return _compare(live, copy)
        finally:
            live.release()
            copy.delete()


def _build(
    ledger: Ledger, generation: Generation, lease: Lease, progress: Progress, until: int | None = None
) -> None:
    """Brings a generation up to a position, or to the ledger's head. Strict: nothing is parked."""
    checkpoint = generation.checkpoint()
    while True:
        wanted = _PAGE if until is None else min(_PAGE, until - checkpoint.position)
        records = ledger.read(checkpoint.position, wanted) if wanted > 0 else []
        if not records:
            return
        changes = generation.changes(records)
        for key_id, reason in changes.parked.items():
            raise RebuildError(
                f"Key {key_id} cannot be rebuilt: {reason}. The old views still serve. "
                "Run the version of Keyledger that wrote this event."
            )
        reached = checkpoint_at(records)
        if not generation.save(checkpoint, changes, reached):
            raise RebuildError("Somebody else wrote to the views that were being built. Run it again.")
        checkpoint = reached
        lease.extend()
        progress(checkpoint.position, max(checkpoint.position, ledger.head().position))


def _compare(live: Generation, copy: Generation) -> Comparison:
    live_digest, copy_digest = _digest(live), _digest(copy)
    differing: list[str] = []
    if live_digest != copy_digest:
        there, wanted = (dict(generation.entries()) for generation in (live, copy))
        names = sorted(there.keys() | wanted.keys())
        differing = [name for name in names if there.get(name) != wanted.get(name)]
    position = live.checkpoint().position
    return Comparison(position, live_digest, copy_digest, differing[:_NAMED_DIFFERENCES])


def _digest(generation: Generation) -> str:
    """A sum of SHA-256 over all that a generation holds: the same in any order, under any name."""
    total = 0
    for name, value in generation.entries():
        sha = hashlib.sha256(len(name).to_bytes(4) + name.encode() + value)
        total += int.from_bytes(sha.digest())
    return f"{total % 2**256:064x}"
