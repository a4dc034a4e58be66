"""Replay: builds the views again and replaces the old ones, or only compares them."""

import hashlib
import secrets
import time
from dataclasses import dataclass

from services.keys.read_model.generations import Generation, Views
from services.keys.read_model.rebuild.build import Progress, RebuildError, build
from services.keys.read_model.rebuild.lease import Lease, lease
from shared.eventstore.ledger import Ledger

_HOLD_S = 60
_EXTEND_HOLD_EVERY = 20_000  # entries
_OLD_GENERATION_S = 2.0  # how long readers may continue with the old generation
_MAX_DIFFERENCES = 20


@dataclass(frozen=True)
class Comparison:
    """The live views compared with a copy built from the first event to the same position."""

    position: int
    live_digest: str
    copy_digest: str
    differing: list[str]  # the names of the first 20 entries that differ

    @property
    def equal(self) -> bool:
        return self.live_digest == self.copy_digest


def _silently(_done: int, _all: int) -> None:
    pass


def replay(ledger: Ledger, views: Views, progress: Progress = _silently) -> int:
    """Builds a new generation while the old one is in use, and makes it live. Returns its position.

    You can run it again if it was interrupted. Raises RebuildError, redis.RedisError.
    """
    with lease(views) as held:
        old, new = views.live(), _another(views)
        views.delete_all_but(old)
        while True:
            build(ledger, new, held, progress)
            held.extend()
            if not ledger.holds(new.checkpoint()):
                raise RebuildError("The ledger went backwards meanwhile. Run it again.")
            # Views ahead of a ledger that went backwards are replaced as well.
            if held.switch(views, old, new, even_if_behind=not ledger.holds(old.checkpoint())):
                break
            if views.live() != old:
                raise RebuildError("Another replay finished first. There is nothing left to do.")
        position = new.checkpoint().position
        time.sleep(_OLD_GENERATION_S)
        views.delete_all_but(new)
    return position


def check(ledger: Ledger, views: Views, progress: Progress = _silently) -> Comparison:
    """Compares the live views with a copy built from the first event, which is deleted afterwards.

    The projectors are stopped only while the last events are added and the rows are compared.
    Raises RebuildError, redis.RedisError.
    """
    with lease(views) as held:
        live, copy = views.live(), _another(views)
        views.delete_all_but(live)
        try:
            build(ledger, copy, held, progress, until=live.checkpoint().position)
            live.hold(_HOLD_S)
            build(ledger, copy, held, progress, until=live.checkpoint().position)
            return _compare(live, copy, held)
        finally:
            live.release()
            copy.delete()


def _another(views: Views) -> Generation:
    # The name is short because every row's name contains it.
    return views.generation(secrets.token_hex(4))


def _compare(live: Generation, copy: Generation, lease: Lease) -> Comparison:
    live_digest, copy_digest = _digest(live, live, lease), _digest(copy, live, lease)
    differing = set[bytes]()
    if live_digest != copy_digest:
        left = {name: hash(value) for name, value in live.entries()}
        differing.update(name for name, value in copy.entries() if left.pop(name, None) != hash(value))
        differing.update(left)
    named = [name.decode(errors="backslashreplace") for name in sorted(differing)[:_MAX_DIFFERENCES]]
    return Comparison(live.checkpoint().position, live_digest, copy_digest, named)


def _digest(generation: Generation, held: Generation, lease: Lease) -> str:
    """A sum of SHA-256 over a generation's entries, which doesn't depend on their order."""
    total = 0
    for count, (name, value) in enumerate(generation.entries()):
        sha = hashlib.sha256(len(name).to_bytes(4) + name + value)
        total += int.from_bytes(sha.digest())
        if count % _EXTEND_HOLD_EVERY == 0:
            _keep(held, lease)
    _keep(held, lease)
    return f"{total % 2**256:064x}"


def _keep(held: Generation, lease: Lease) -> None:
    lease.extend()
    if not held.extend_hold(_HOLD_S):
        raise RebuildError("The views could not be held still for as long as it took. Check them again.")
