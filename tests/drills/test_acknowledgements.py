"""The store's system calls: it acknowledges an append only when the disk has it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis

from shared.eventstore.ledger import Ledger
from shared.store.connections import connect, unchecked_client
from shared.store.embedded import EmbeddedServer
from tests.support.append_load import one_created
from tests.support.processes import need, until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(120)]

_CALLS = "write,writev,pwrite64,sendto,sendmsg,fsync,fdatasync"
_EACH = 500  # appends of one writer

# A line of the trace: process, time, and a call that is complete, unfinished or resumed.
_LINE = re.compile(r"(?P<pid>\d+) +\d+\.\d+ (?:<\.\.\. \w+ resumed>)?(?P<text>.*)")
_CALL = re.compile(r"(?P<call>\w+)\(\d+<(?P<file>[^>]*(?:->[^>]*)?)>")
_RETURNED = re.compile(r"\) += (?P<value>-?\d+)")
_IN_FILE = re.compile(r"XADD\\r\\n\$\d+\\r\\n\{kl:0\}:log\\r\\n\$\d+\\r\\n0-(\d+)\\r\\n")
_IN_REPLY = re.compile(r"appended\\r\\n\$\d+\\r\\n(\d+)\\r\\n")
_END_OF_APPEND = r"EXEC\r\n"  # as strace prints it


class TooEarlyError(Exception):
    """An append was acknowledged before it was on disk."""


@dataclass
class Trace:
    """Tracks a store's writes and syncs, line by line in the order of the trace.

    A call counts as begun at its first line, and as done at the line that has its result.
    """

    on_disk: set[int] = field(default_factory=set)
    acknowledged: list[int] = field(default_factory=list)
    syncs: int = 0
    _written: str = ""  # data in the append-only file after the last synced append
    _covered: dict[str, set[int]] = field(default_factory=dict)  # by the thread that syncs
    _begun: dict[str, str] = field(default_factory=dict)  # the first part of each thread's unfinished call

    def read(self, line: str) -> None:
        """Processes a line. Raises TooEarlyError."""
        parts = _LINE.fullmatch(line)
        if parts is None:
            return
        pid, text = parts["pid"], parts["text"]
        if pid not in self._begun:
            self._begin(pid, text)
        text = self._begun.pop(pid, "") + text
        if text.endswith("<unfinished ...>"):
            self._begun[pid] = text.removesuffix("<unfinished ...>")
        elif returned := _RETURNED.search(text):
            self._end(pid, text, int(returned["value"]))

    def _begin(self, pid: str, text: str) -> None:
        call = _CALL.match(text)
        if call is None:
            return
        if call["call"] in {"fsync", "fdatasync"} and _is_log(call["file"]):
            done, end, self._written = self._written.rpartition(_END_OF_APPEND)
            self._covered[pid] = set(map(int, _IN_FILE.findall(done + end)))
        if "socket" in call["file"]:
            for position in map(int, _IN_REPLY.findall(text)):
                if position not in self.on_disk:
                    raise TooEarlyError(f"position {position} was acknowledged and not on the disk")
                self.acknowledged.append(position)

    def _end(self, pid: str, text: str, value: int) -> None:
        call = _CALL.match(text)
        if call is None or not _is_log(call["file"]):
            return
        if call["call"] in {"fsync", "fdatasync"}:
            assert value == 0, text[:200]
            self.on_disk |= self._covered.pop(pid)
            self.syncs += 1
            return
        assert text.rstrip().endswith(f", {value}) = {value}"), f"part of it was written: {text[-100:]}"
        self._written += text


def _is_log(file: str) -> bool:
    return file.endswith(".incr.aof")


def read_trace(file: Path) -> Trace:
    """Processes a whole trace. Raises TooEarlyError."""
    trace = Trace()
    with file.open() as lines:
        for line in lines:
            trace.read(line.rstrip("\n"))
    return trace


@contextmanager
def traced_store(directory: Path, appendfsync: str) -> Iterator[tuple[str, Path]]:
    """Runs a store under strace, and yields its trace file, which is complete once the store has stopped."""
    strace = need(shutil.which("strace"), "strace")
    server = EmbeddedServer.in_directory(directory)
    trace = directory / "trace"
    command = [appendfsync if word == "always" else word for word in server.command]
    options = ["-f", "-ttt", "-y", "-s", "1000000", "-o", str(trace), "-e", f"trace={_CALLS}"]
    with subprocess.Popen([strace, *options, *command], stdout=subprocess.DEVNULL) as process:
        with unchecked_client(server.url, 5) as client:
            try:
                until(server.is_ready, what="the store's answer")
                yield server.url, trace
            finally:
                client.shutdown(nosave=True)
        process.wait(20)


def append_many(store: Redis, writers: int) -> int:
    """Appends as the service does, sequentially per writer, and returns the number acknowledged."""

    def write(writer: int) -> int:
        ledger = Ledger(store)
        for number in range(_EACH):
            subject = f"key:{writer}-{number}"
            ledger.append(subject, one_created(subject), 0)
        return _EACH

    with ThreadPoolExecutor(writers) as threads:
        return sum(threads.map(write, range(writers)))


@pytest.mark.parametrize("writers", [1, 8])
def test_no_append_is_acknowledged_before_it_is_on_disk(short_tmp: Path, writers: int) -> None:
    with (
        traced_store(short_tmp / f"always-{writers}", "always") as (url, file),
        connect(url, timeout=10) as store,
    ):
        appended = append_many(store, writers)
    trace = read_trace(file)
    print(f"\n{writers} writers: {len(trace.acknowledged)} acknowledgements, {trace.syncs} syncs of the file")
    assert sorted(trace.acknowledged) == list(range(1, appended + 1))


def test_the_trace_check_fails_for_a_store_that_syncs_every_second(short_tmp: Path) -> None:
    with (
        traced_store(short_tmp / "everysec", "everysec") as (url, file),
        connect(url, timeout=10, allow_unsafe=True) as store,
    ):
        append_many(store, 8)
    with pytest.raises(TooEarlyError, match="was acknowledged and not on the disk"):
        read_trace(file)
