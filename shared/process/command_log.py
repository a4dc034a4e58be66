"""Logs each command when it ends, with its outcome, and reports it to observers."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from threading import Event as Stop
from threading import Lock
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

import structlog
from redis import RedisError

from shared.clock import now_ms, rfc3339
from shared.errors import UserFacingError
from shared.eventstore.envelope import Request, UnreadableEventError
from shared.eventstore.ledger import NotReplicatedError, VersionConflictError
from shared.identity import ForbiddenError, Principal
from shared.process.telemetry import together
from shared.store.connections import StoreError
from shared.store.idempotency import IdempotencyConflictError

# "done" is also a command that had nothing to change. "unavailable": the store is unavailable or the history
# unreadable, so the outcome is unknown or impossible. "failed" is a bug.
Outcome: TypeAlias = Literal["done", "refused", "conflict", "unavailable", "failed"]
Observer: TypeAlias = Callable[[str, Outcome, float], object]  # the command's name, and its duration in s

_BATCH_EVERY_S = 0.1

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class CommandLog:
    """The commands of one process. Each line is written at once, unless `write_in_batches` runs."""

    observers: list[Observer] = field(default_factory=list)
    _waiting: deque[dict[str, object]] = field(default_factory=deque)  # lines that are not written yet
    _writing: Lock = field(default_factory=Lock)
    _batching: Stop = field(default_factory=Stop)  # set while `write_in_batches` runs

    def write_in_batches(self, stop: Stop) -> None:
        """Writes the lines ten times a second until `stop` is set.

        A line written on its own makes its command several times as long: what renders it is in no cache,
        and each write lets the other threads of a busy process go first. Call `flush` before the process
        ends; a killed process loses the last of these lines, and none of their events.
        """
        self._batching.set()
        while not stop.wait(_BATCH_EVERY_S):
            self.flush()
        self._batching.clear()
        self.flush()

    def flush(self) -> None:
        """Writes the waiting lines, and waits for another thread that writes some."""
        with self._writing, together():
            while self._waiting:
                _log.info(**self._waiting.popleft())

    def ended(
        self, name: str, outcome: Outcome, seconds: float, given: tuple[object, ...], error: str | None = None
    ) -> None:
        """Records a command. The error is a class name alone, because a message may repeat user input."""
        for observe in self.observers:
            observe(name, outcome, seconds)
        line: dict[str, object] = {
            "event": name,
            "timestamp": rfc3339(now_ms()),
            "outcome": outcome,
            "ms": round(seconds * 1000, 1),
        }
        if error is not None:
            line["error"] = error
        for argument in given:
            if isinstance(argument, Principal):
                line |= {"actor": argument.id, "workspace": argument.workspace}
            elif isinstance(argument, Request):
                line["request_id"] = argument.id
        self._waiting.append(line)
        if not self._batching.is_set():
            self.flush()


class _Logged(Protocol):
    @property
    def log(self) -> CommandLog: ...


_S = TypeVar("_S", bound=_Logged)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def command(name: str) -> Callable[[Callable[Concatenate[_S, _P], _R]], Callable[Concatenate[_S, _P], _R]]:
    """Logs each call of a method in its object's `log`. A result of None counts as refused."""

    def decorate(act: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
        @wraps(act)
        def logged(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            began, given = time.perf_counter(), (*args, *kwargs.values())
            try:
                result = act(self, *args, **kwargs)
            except Exception as error:
                took = time.perf_counter() - began
                self.log.ended(name, _outcome(error), took, given, type(error).__name__)
                raise
            outcome: Outcome = "done" if result is not None else "refused"
            self.log.ended(name, outcome, time.perf_counter() - began, given)
            return result

        return logged

    return decorate


def _outcome(error: Exception) -> Outcome:
    match error:
        case RedisError() | StoreError() | NotReplicatedError() | UnreadableEventError():
            return "unavailable"
        case VersionConflictError() | IdempotencyConflictError():
            return "conflict"
        case ForbiddenError() | UserFacingError():
            return "refused"
    return "failed"
