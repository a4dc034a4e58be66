"""The process supervisor, tested with real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from services.runtime.supervisor import NotReadyError, Process, Supervisor, Timing

SOON = Timing(first_pause=0.02, longest_pause=0.05, settled=30.0, ready=10.0, grace=10.0)
IDLE = "import time; print('up', flush=True); time.sleep(60)"


def python(name: str, code: str, *, ready: Callable[[], bool] | None = None) -> Process:
    return Process(name=name, argv=[sys.executable, "-c", textwrap.dedent(code)], ready=ready)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # nothing of it is left but its entry, which init clears away


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        await asyncio.sleep(0.005)


class Output:
    """The lines that the supervisor printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def of(self, name: str) -> list[str]:
        """Returns the lines of one process, without their prefix."""
        told = (line.partition(" | ") for line in self.lines)
        return [text for prefix, _, text in told if prefix.strip() == name]

    def pids(self, name: str) -> list[int]:
        return [int(text) for text in self.of(name) if text.isdigit()]


Scenario = Callable[[Output, Supervisor], Awaitable[None]]


def play(processes: list[Process], scenario: Scenario, timing: Timing = SOON) -> Output:
    """Runs the processes until the scenario ends, then stops them."""
    output = Output()

    async def run() -> None:
        supervisor = Supervisor(processes, timing, output.lines.append, coloured=False)
        running = asyncio.create_task(supervisor.run())
        try:
            await scenario(output, supervisor)
        finally:
            supervisor.stop()
            await asyncio.wait_for(running, 30)

    asyncio.run(run())
    return output


PID = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def test_each_output_line_is_prefixed_with_its_process_name() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: len(output.of("web")) == 5)
        await until(lambda: output.of("projector"))

    says = r"""
        import os, time
        os.write(1, b'one\ntwo\r\n')
        os.write(2, b'not UTF-8: \xff\n')
        os.write(1, b'an empty one:\n\n')
        time.sleep(60)
    """
    output = play([python("web", says), python("projector", IDLE)], scenario)
    assert [line for line in output.lines if line.startswith("web")] == [
        "web       | one",
        "web       | two",
        "web       | not UTF-8: �",
        "web       | an empty one:",
        "web       | ",
    ]
    assert "projector | up" in output.lines


def test_process_names_are_coloured_if_requested() -> None:
    output = Output()

    async def run() -> None:
        supervisor = Supervisor([python("web", IDLE)], SOON, output.lines.append, coloured=True)
        running = asyncio.create_task(supervisor.run())
        await until(lambda: output.lines)
        supervisor.stop()
        await running

    asyncio.run(run())
    assert output.lines[0] == "\x1b[33mweb | \x1b[0mup"


def test_a_very_long_line_is_printed_before_it_ends(tmp_path: Path) -> None:
    written = tmp_path / "written"

    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: written.exists() and len("".join(output.of("web"))) > 900_000)

    endless = f"""
        import pathlib, time
        print('x' * 1_000_000, end='', flush=True)
        pathlib.Path({str(written)!r}).touch()
        time.sleep(60)
    """
    output = play([python("web", endless)], scenario)
    assert "".join(output.of("web")) == "x" * 1_000_000


def test_final_output_without_a_newline_is_printed() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: "last words" in output.of("web"))

    play([python("web", "print('last words', end='')")], scenario)


def test_a_process_starts_only_after_the_previous_one_is_ready(tmp_path: Path) -> None:
    store = f"""
        import pathlib, time
        time.sleep(0.2)
        pathlib.Path({str(tmp_path / "ready")!r}).touch()
        time.sleep(60)
    """
    web = f"""
        import pathlib, time
        print(pathlib.Path({str(tmp_path / "ready")!r}).exists(), flush=True)
        time.sleep(60)
    """

    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: output.of("web"))

    output = play([python("store", store, ready=(tmp_path / "ready").exists), python("web", web)], scenario)
    assert output.of("web") == ["True"]


def test_all_processes_stop_if_one_is_not_ready_in_time() -> None:
    output = Output()
    processes = [python("store", PID), python("web", IDLE, ready=lambda: False)]
    timing = Timing(ready=0.3)
    with pytest.raises(NotReadyError, match=r"^web was not ready within 0\.3 s\.$"):
        asyncio.run(Supervisor(processes, timing, output.lines.append, coloured=False).run())
    assert all(map(is_gone, output.pids("store")))


def test_an_exception_in_a_readiness_check_stops_all_processes() -> None:
    output = Output()

    def mistaken() -> bool:
        if output.pids("store"):
            raise ZeroDivisionError
        return False

    processes = [python("store", PID, ready=mistaken)]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Supervisor(processes, SOON, output.lines.append, coloured=False).run())
    assert all(map(is_gone, output.pids("store")))


def test_an_exception_in_the_supervisor_stops_all_processes() -> None:
    output = Output()

    def write(line: str) -> None:
        output.lines.append(line)
        if "restarting it" in line:
            raise ZeroDivisionError

    processes = [python("store", PID, ready=lambda: bool(output.pids("store"))), python("web", "")]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Supervisor(processes, SOON, write, coloured=False).run())
    assert all(map(is_gone, output.pids("store")))


def test_readiness_is_reported_only_once() -> None:
    output = Output()

    async def run() -> None:
        supervisor = Supervisor([python("web", PID)], SOON, output.lines.append, coloured=False)
        running = asyncio.create_task(supervisor.run(lambda: output.lines.append("up | ready")))
        await until(lambda: output.pids("web"))
        os.kill(output.pids("web")[0], signal.SIGKILL)
        await until(lambda: len(output.pids("web")) == 2)
        supervisor.stop()
        await running

    asyncio.run(run())
    assert output.of("up").count("ready") == 1


def test_a_killed_process_is_restarted_while_the_others_keep_running() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: output.pids("web") and output.pids("worker"))
        for run in range(1, 4):
            os.kill(output.pids("web")[-1], signal.SIGKILL)
            await until(lambda run=run: len(output.pids("web")) == run + 1)  # type: ignore[misc]

    output = play([python("worker", PID), python("web", PID)], scenario)
    assert len(output.pids("worker")) == 1
    assert output.of("up")[0] == "web was ended by SIGKILL; restarting it in 0.02 s"


def test_the_restart_delay_grows_with_each_crash() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: len(output.of("up")) >= 4)

    output = play([python("web", "raise SystemExit(3)")], scenario)
    assert output.of("up")[:4] == [
        f"web ended with exit status 3; restarting it in {pause} s" for pause in (0.02, 0.04, 0.05, 0.05)
    ]


def test_the_restart_delay_resets_after_a_stable_run(tmp_path: Path) -> None:
    fails_twice_then_runs = f"""
        import pathlib, time
        runs = pathlib.Path({str(tmp_path / "runs")!r})
        with runs.open("a") as file: file.write("x")
        if len(runs.read_text()) == 3: time.sleep(0.5)
    """

    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: len(output.of("up")) >= 3)

    timing = Timing(first_pause=0.02, longest_pause=1.0, settled=0.4)
    output = play([python("web", fails_twice_then_runs)], scenario, timing)
    pauses = [text.rpartition(" in ")[2] for text in output.of("up")[:3]]
    assert pauses == ["0.02 s", "0.04 s", "0.02 s"]


def test_a_missing_program_is_reported_and_retried() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: len(output.of("up")) >= 2)

    output = play([Process(name="web", argv=["/no/such/program"])], scenario)
    first = "web could not be started (No such file or directory); restarting it in 0.02 s"
    assert output.of("up")[0] == first


FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
child = subprocess.Popen(sleep)
outside_the_group = subprocess.Popen(sleep, process_group=0)
print(os.getpid(), child.pid, outside_the_group.pid, flush=True)
time.sleep(60)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + FAMILY


def families(output: Output) -> list[list[int]]:
    return [[int(pid) for pid in text.split()] for text in output.of("web")]


def test_child_processes_are_killed_before_a_restart() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: families(output))
        os.kill(families(output)[0][0], signal.SIGKILL)
        await until(lambda: output.of("up"))
        await until(lambda: all(map(is_gone, families(output)[0])))

    play([python("web", FAMILY)], scenario, Timing(first_pause=20))


def test_a_child_in_its_own_session_does_not_delay_a_restart() -> None:
    leaves_one_behind = """
        import os, subprocess, sys, time
        code = "import time; time.sleep(60)"
        left = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        print(left.pid, flush=True)
    """

    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: len(output.pids("web")) >= 2)

    output = play([python("web", leaves_one_behind)], scenario)
    for pid in output.pids("web"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


SLOW_TO_STOP = """
    import os, signal, sys, time
    def stop(*_):
        time.sleep({seconds})
        print("stopped", flush=True)
        sys.exit()
    signal.signal(signal.SIGTERM, stop)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_the_first_process_stops_after_all_others_have_exited() -> None:
    processes = [
        python(name, SLOW_TO_STOP.format(seconds=seconds))
        for name, seconds in (("store", 0), ("projector", 0.2), ("web", 0.1))
    ]

    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: all(output.pids(process.name) for process in processes))

    output = play(processes, scenario)
    stopped = [line.partition(" ")[0] for line in output.lines if line.endswith("stopped")]
    assert stopped == ["web", "projector", "store"]


def test_a_process_that_ignores_sigterm_is_killed_with_its_children() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: families(output))

    started = time.monotonic()
    output = play([python("store", IDLE), python("web", STUBBORN)], scenario, Timing(grace=0.3))
    assert time.monotonic() - started > 0.3
    asyncio.run(until(lambda: all(map(is_gone, families(output)[0]))))


def test_a_second_stop_request_kills_immediately() -> None:
    async def scenario(output: Output, supervisor: Supervisor) -> None:
        await until(lambda: families(output))
        supervisor.stop()

    started = time.monotonic()
    output = play([python("store", IDLE), python("web", STUBBORN)], scenario, Timing(grace=110))
    assert time.monotonic() - started < 100
    asyncio.run(until(lambda: all(map(is_gone, families(output)[0]))))


def test_stopping_cancels_a_pending_restart() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: output.of("up"))

    started = time.monotonic()
    play([python("web", "")], scenario, Timing(first_pause=110, longest_pause=110))
    assert time.monotonic() - started < 100


def test_a_process_inherits_only_the_file_descriptors_passed_to_it() -> None:
    async def scenario(output: Output, _: Supervisor) -> None:
        await until(lambda: output.of("web"))

    code = """
        import os, sys, time
        for descriptor in map(int, sys.argv[1:]):
            try: print(os.fstat(descriptor) is not None, flush=True)
            except OSError: print(False, flush=True)
        time.sleep(60)
    """
    given, kept = os.pipe()
    os.set_inheritable(kept, True)
    argv = [*python("web", code).argv, str(given), str(kept)]
    output = play([Process(name="web", argv=argv, pass_fds=(given,))], scenario)
    os.close(given)
    os.close(kept)
    assert output.of("web") == ["True", "False"]


# The supervisor as a separate process that receives signals

UP = """
import sys
from services.runtime.supervisor import Process, supervise
names = ["store", "web"]
processes = [Process(name=n, argv=[sys.executable, "-c", code]) for n, code in zip(names, sys.argv[1:])]
supervise(processes, when_ready=lambda: print("all are ready", flush=True))
"""


def test_a_blocked_restart_is_retried_and_its_reason_is_reported_once() -> None:
    hindrances = [None, "The disk is full.", "The disk is fuller.", "The disk is full."]
    asked: list[str | None] = []

    def hindrance() -> str | None:
        asked.append(hindrances[len(asked)] if len(asked) < len(hindrances) else None)
        return asked[-1]

    async def die_and_come_back(output: Output, _: Supervisor) -> None:
        await until(lambda: output.pids("store"))
        os.kill(output.pids("store")[0], signal.SIGKILL)
        await until(lambda: len(output.pids("store")) == 2)

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = replace(python("store", code), hindrance=hindrance)
    output = play([process], die_and_come_back)
    assert [line for line in output.of("up") if "waits" in line] == ["store waits: The disk is full."]
    assert asked == [*hindrances, None]


def test_a_blocked_process_is_not_started_after_a_stop_request() -> None:
    async def stop(output: Output, _: Supervisor) -> None:
        await until(lambda: output.of("up"))

    output = play([replace(python("store", IDLE), hindrance=lambda: "The disk is full.")], stop)
    assert not output.of("store")


@contextmanager
def up(web: str) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """Runs a supervisor with a store and the given web process. Yields it and the processes' IDs."""
    arguments = [sys.executable, "-c", UP, PID, web]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = sorted(process.stdout.readline() for _ in range(3))
        assert lines[0] == "all are ready\n"
        pids = [int(word) for line in lines[1:] for word in line.split() if word.isdigit()]
        try:
            yield process, pids
        finally:
            process.kill()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_kills_all_processes_immediately(number: signal.Signals) -> None:
    with up(STUBBORN) as (process, pids):
        assert len(pids) == 4
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "up    | stopping; a second signal kills immediately\n"
        process.send_signal(number)
        assert process.wait(60) == 0
        asyncio.run(until(lambda: all(map(is_gone, pids))))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_the_processes_exit_when_their_supervisor_is_killed() -> None:
    with up(FAMILY) as (process, (store, web, *_)):
        process.kill()
        process.wait()
        asyncio.run(until(lambda: is_gone(store) and is_gone(web)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the children of a process")
def test_the_supervisor_keeps_running_after_its_output_pipe_closes() -> None:
    with up(PID) as (process, (first, second)):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        assert process.stdout is not None
        process.stdout.close()
        os.kill(second, signal.SIGKILL)
        asyncio.run(until(lambda: is_gone(second) and len(children.read_text().split()) == 2))
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert is_gone(first)
