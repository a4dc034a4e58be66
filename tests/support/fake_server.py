"""A store that gives prepared replies."""

import socket
from pathlib import Path
from threading import Thread


class FakeServer:
    """Answers each command on a Unix socket according to its first word, by default with OK."""

    def __init__(self, path: Path, **replies: bytes) -> None:
        self.replies = replies
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                while head := lines.readline():
                    words = [lines.read(int(lines.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                    peer.sendall(self.replies.get(words[0].decode(), b"+OK") + b"\r\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
