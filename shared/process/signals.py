"""Stopping a process by a signal."""

from threading import Event as Stop
from threading import Thread


def set_by_signal(stop: Stop) -> None:
    """Sets `stop` from a signal handler.

    The handler may have interrupted `stop.wait` while that held its lock, so setting it in the same thread
    would deadlock.
    """
    Thread(target=stop.set).start()
