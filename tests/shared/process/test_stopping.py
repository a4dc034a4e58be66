"""A signal ends a wait whenever it arrives."""

import subprocess
import sys

# Each round is interrupted after a few milliseconds, in which it only starts and ends waits.
_ROUNDS = """
import random, signal, sys
from threading import Event
from shared.process.signals import set_by_signal

for _ in range(200):
    stop = Event()
    signal.signal(signal.SIGALRM, lambda *_: set_by_signal(stop))
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.005))
    while not stop.is_set():
        stop.wait(0)
print("all ended")
"""


def test_a_signal_ends_the_wait_it_interrupts() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _ROUNDS], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "all ended\n"
