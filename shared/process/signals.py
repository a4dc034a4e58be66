"""How a signal tells a process to stop."""

from threading import Event as Stop
from threading import Thread


def set_by_signal(stop: Stop) -> None:
    """For the handler of a signal, which may have interrupted `stop.wait` while that held its lock.

    To set it there and then would wait for this lock, and so for ever; another thread may wait.
    """
    Thread(target=stop.set).start()
