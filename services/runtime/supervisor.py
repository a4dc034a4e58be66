"""Runs processes, prints their output, restarts crashed ones, and stops them all: `keyledger up`."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from shared.errors import UserFacingError

_CHUNK = 64 * 1024  # bytes; a line that is longer is printed in pieces
_COLOURS = (36, 33, 32, 35, 34)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class NotReadyError(UserFacingError):
    """A process was not ready in time; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process to run, with the descriptors that it inherits; `env` None is the supervisor's own.

    The next process starts once `ready` returns True; it is polled and must return at once. Before each
    start, `hindrance` may return a reason not to start yet.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    ready: Callable[[], bool] | None = None
    hindrance: Callable[[], str | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """In seconds."""

    first_pause: float = 0.1  # before a restart; doubled each time
    longest_pause: float = 10.0
    settled: float = 10.0  # after running for so long, a process restarts with the first pause
    ready: float = 60.0
    grace: float = 10.0  # between SIGTERM and SIGKILL


def supervise(
    processes: Sequence[Process], *, when_ready: Callable[[], None] | None = None, timing: Timing = Timing()
) -> None:
    """Runs the processes until SIGINT, SIGTERM or SIGHUP, and leaves nothing running.

    `when_ready` is called once, when all have started and are ready. A second signal kills at once.
    Raises NotReadyError.
    """
    coloured = bool(sys.stdout and sys.stdout.isatty()) and not os.environ.get("NO_COLOR")
    asyncio.run(Supervisor(processes, timing, _print, coloured=coloured).run(when_ready))


class Supervisor:
    """Runs processes, each in a session of its own, from the main thread.

    The others depend on the first, which is stopped only after all of them have ended.
    """

    def __init__(
        self, processes: Sequence[Process], timing: Timing, write: Callable[[str], None], *, coloured: bool
    ) -> None:
        self._processes = processes
        self._timing = timing
        self._write = write
        self._prefixes = _prefixes(["up", *(process.name for process in processes)], coloured)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._child_ended = asyncio.Event()

    async def run(self, when_ready: Callable[[], None] | None = None) -> None:
        """Starts the processes in order and keeps them running until `stop`. Raises NotReadyError."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._wake)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, self.stop)
        try:
            for process in self._processes:
                await self._start(process)
            if when_ready and not self._stopping.is_set():
                when_ready()
            await self._stopping.wait()
        finally:
            self._stopping.set()
            first, *others = self._tasks
            await self._end(others[::-1])
            await self._end([first])
        await asyncio.gather(*self._tasks.values())

    def stop(self) -> None:
        """Makes `run` stop the processes and return. Called again, it kills them."""
        if self._stopping.is_set():
            for child in self._children.values():
                _kill_session(child.pid)
        else:
            self._say("stopping; a second signal kills immediately")
            self._stopping.set()

    async def _start(self, process: Process) -> None:
        task = self._tasks[process.name] = asyncio.create_task(self._keep(process))
        # It ends only when everything stops, or because of a bug, which must not go unnoticed.
        task.add_done_callback(lambda _: self._stopping.set())
        deadline = time.monotonic() + self._timing.ready
        while process.ready and not self._stopping.is_set() and not process.ready():
            if time.monotonic() > deadline:
                raise NotReadyError(f"{process.name} was not ready within {self._timing.ready:g} s.")
            await self._pause(0.05)

    async def _keep(self, process: Process) -> None:
        pause = self._timing.first_pause
        while not self._stopping.is_set():
            await self._hindered(process)
            if self._stopping.is_set():
                return
            started = time.monotonic()
            how = await self._run_once(process)
            if self._stopping.is_set():
                return
            if time.monotonic() - started >= self._timing.settled:
                pause = self._timing.first_pause
            self._say(f"{process.name} {how}; restarting it in {pause:g} s")
            await self._pause(pause)
            pause = min(2 * pause, self._timing.longest_pause)

    async def _hindered(self, process: Process) -> None:
        """Waits until `hindrance` returns None."""
        said = False
        while process.hindrance and not self._stopping.is_set() and (why := process.hindrance()):
            if not said:
                self._say(f"{process.name} waits: {why}")
            said = True
            await self._pause(1.0)

    async def _run_once(self, process: Process) -> str:
        """Runs it once, and describes how it ended."""
        try:
            child = self._children[process.name] = _spawn(process)
        except OSError as error:
            return f"could not be started ({error.strerror})"
        output = asyncio.create_task(self._print_output(process.name, child))
        while (status := child.poll()) is None:
            await self._child_ended.wait()
        # Its children must not outlive it: a server's workers would keep the port.
        _kill_session(child.pid)
        del self._children[process.name]
        # Its last output; only for a while, because a process that left the session may hold the other end.
        await asyncio.wait([output], timeout=1.0)
        output.cancel()
        return _ending(status)

    def _wake(self) -> None:
        """Lets each task look whether its own child ended."""
        self._child_ended.set()
        self._child_ended.clear()

    async def _pause(self, seconds: float) -> None:
        """Waits, unless everything stops before."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _end(self, names: Sequence[str]) -> None:
        for child in self._running(names):
            child.terminate()
        tasks = [self._tasks[name] for name in names]
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=self._timing.grace)
        for child in self._running(names):
            _kill_session(child.pid)
        await asyncio.wait(tasks)

    def _running(self, names: Sequence[str]) -> list[subprocess.Popen[bytes]]:
        return [self._children[name] for name in names if name in self._children]

    async def _print_output(self, name: str, child: subprocess.Popen[bytes]) -> None:
        # Not by readline: it fails at a line that is longer than its buffer.
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), child.stdout
        )
        rest = b""
        with closing(transport):
            while chunk := await reader.read(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _CHUNK:
                    lines, rest = [*lines, rest], b""
                self._write_lines(name, lines)
            self._write_lines(name, filter(None, [rest]))

    def _write_lines(self, name: str, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._write(self._prefixes[name] + line.decode(errors="replace").rstrip("\r"))

    def _say(self, message: str) -> None:
        self._write(self._prefixes["up"] + message)


def _spawn(process: Process) -> subprocess.Popen[bytes]:
    """Raises OSError."""
    return subprocess.Popen(  # noqa: S603  # the caller names the programs, and no shell reads them
        process.argv,
        env=process.env,
        pass_fds=process.pass_fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Only the child itself can request it, before its program runs. This is safe because this process has
        # one thread, so no other thread can hold a lock during the fork.
        preexec_fn=_ending_with(os.getpid()) if sys.platform == "linux" else None,
    )


def _ending_with(supervisor: int) -> Callable[[], None]:
    """Makes the system send SIGTERM to a child when the supervisor dies, even by SIGKILL."""

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it died before it was asked for
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def _kill_session(leader: int) -> None:
    """Kills a child and its descendants, also those that left its process group."""
    with suppress(OSError):
        os.killpg(leader, signal.SIGKILL)
    for process in (int(entry.name) for entry in Path("/proc").glob("[0-9]*")):
        with suppress(OSError):  # it ended meanwhile
            if os.getsid(process) == leader:
                os.kill(process, signal.SIGKILL)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    named = {number.value: number.name for number in signal.Signals}
    return f"was ended by {named.get(-status, f'signal {-status}')}"


def _prefixes(names: Sequence[str], coloured: bool) -> dict[str, str]:
    width = max(map(len, names))
    prefixes = {}
    for place, name in enumerate(names):
        text = f"{name:<{width}} | "
        prefixes[name] = f"\x1b[{_COLOURS[place % len(_COLOURS)]}m{text}\x1b[0m" if coloured else text
    return prefixes


def _print(line: str) -> None:
    # The reader of the lines may be gone, which is no reason to stop.
    with suppress(OSError):
        if sys.stdout:
            sys.stdout.buffer.write(f"{line}\n".encode(sys.stdout.encoding, "backslashreplace"))
            sys.stdout.buffer.flush()
