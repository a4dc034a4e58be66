"""The right to rebuild the views and to replace the live generation."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis, WatchError

from services.keys.read_model.generations import POINTER, ROOT, Generation, Views
from shared.errors import UserFacingError

LEASE = f"{ROOT}rebuild"
_LIFETIME_S = 15


class LeaseTakenError(UserFacingError):
    """Another process is rebuilding the views."""

    def __init__(self) -> None:
        super().__init__("Another replay is running, or was killed recently: try again in 15 seconds.")


@dataclass(frozen=True)
class Lease:
    """The right to rebuild. It expires 15 s after its holder died."""

    store: Redis
    token: str

    def extend(self) -> None:
        """Raises LeaseTakenError if the lease was lost."""
        self._while_held(lambda pipe: pipe.expire(LEASE, _LIFETIME_S))

    def release(self) -> None:
        """Ends the lease, unless it was lost."""
        with suppress(LeaseTakenError):
            self._while_held(lambda pipe: pipe.delete(LEASE))

    def switch(self, views: Views, old: Generation, new: Generation, *, even_if_behind: bool) -> bool:
        """Makes `new` live. Returns False if it is behind `old`, or if `old` isn't live anymore.

        Raises LeaseTakenError: the new holder may be deleting what isn't live.
        """
        with cast("Any", self.store.pipeline()) as pipe:
            pipe.watch(POINTER, LEASE, old.checkpoint_key, new.checkpoint_key)
            if not self._is_held(pipe.get(LEASE)):
                raise LeaseTakenError
            behind = new.checkpoint().position < old.checkpoint().position
            if views.live() != old or (behind and not even_if_behind):
                return False
            pipe.multi()
            pipe.set(POINTER, new.name)
            try:
                pipe.execute()
            except WatchError:
                return False
            return True

    def _is_held(self, value: bytes | None) -> bool:
        return value == self.token.encode()

    def _while_held(self, act: Callable[[Any], object]) -> None:
        with cast("Any", self.store.pipeline()) as pipe:
            pipe.watch(LEASE)
            if not self._is_held(pipe.get(LEASE)):
                raise LeaseTakenError
            pipe.multi()
            act(pipe)
            try:
                pipe.execute()
            except WatchError as error:
                raise LeaseTakenError from error


@contextmanager
def lease(views: Views) -> Iterator[Lease]:
    """Acquires the right to rebuild, which one process has at a time. Raises LeaseTakenError."""
    acquired = Lease(views.store, uuid.uuid4().hex)
    if not views.store.set(LEASE, acquired.token, nx=True, ex=_LIFETIME_S):
        raise LeaseTakenError
    try:
        yield acquired
    finally:
        acquired.release()
