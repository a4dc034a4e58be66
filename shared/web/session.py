"""Server-side sessions: the cookie holds a random id, the store what belongs to its SHA-256.

So whoever reads the store gets nobody's session.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin
from redis import Redis

from shared.ledger import NAMESPACE

COOKIE = "keyledger_session"
IDLE_LIFE_S = 2 * 60 * 60
ABSOLUTE_LIFE_S = 12 * 60 * 60
_TOUCH_EVERY_S = 60
_ID_BYTES = 32
_ID = re.compile(r"[0-9A-Za-z_-]{43}")


class _Content(msgspec.Struct, frozen=True):
    """The JSON that is kept of a session."""

    created: int  # s since 1970
    data: dict[str, Any]


@dataclass(frozen=True, repr=False)
class _Record:
    """A session in the store: its key there, its content, and how many seconds it has left."""

    key: str
    content: _Content
    left: int


class Session(SessionMixin):
    """What is known of one visitor.

    It is fetched when first looked at, so that a request which needs no session asks the store nothing,
    and one whose store is away fails in its view, where errors are mapped. A value that is changed in
    place is kept only if `modified` is set, as in Flask's own sessions.
    """

    modified = False

    def __init__(self, fetch: Callable[[], _Record | None], *, secure: bool) -> None:
        self.secure = secure
        self.tried = False  # to be saved
        self.record: _Record | None = None
        self.ended: _Record | None = None
        self._fetch = fetch
        self._data: dict[str, Any] | None = None

    def _fetched(self) -> dict[str, Any]:
        if self._data is None:
            self.record = self._fetch()
            self._data = dict(self.record.content.data) if self.record else {}
        return self._data

    def __getitem__(self, name: str) -> Any:
        return self._fetched()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._fetched()[name] = value
        self.modified = True

    def __delitem__(self, name: str) -> None:
        del self._fetched()[name]
        self.modified = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._fetched())

    def __len__(self) -> int:
        return len(self._fetched())

    def clear(self) -> None:
        """Ends the session: its record goes, and what is set from now on is another's, with a new id."""
        self._fetched()
        self.ended, self.record = self.record or self.ended, None
        self._data = {}
        self.modified = True


def renew(session: SessionMixin) -> None:
    """Goes on in a new, empty session; to be called at every sign-in.

    Nothing is taken over: whoever planted the old id knows what is in it, its CSRF token too.
    """
    session.clear()


class StoredSessions(SessionInterface):
    """Keeps the sessions in Redis. Errors of the store are raised, never taken for an empty session."""

    def __init__(self, store: Redis, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def open_session(self, app: Flask, request: Request) -> Session:  # noqa: ARG002  # Flask's signature
        """The session of the request's cookie; an empty new one, if there is none."""
        presented = request.cookies.get(COOKIE, "")
        return Session(lambda: self._find(presented), secure=request.is_secure)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:  # noqa: ARG002
        """Keeps what changed. An id is only ever given out here, never taken over from a visitor."""
        session = cast("Session", session)
        if session.accessed:
            response.vary.add("Cookie")
        if session.tried:
            return  # the page that tells of the failure of the first try
        session.tried = True
        if session.modified:
            self._save(session, response)
        elif session.record:
            self._touch(session.record)

    def _find(self, presented: str) -> _Record | None:
        if not _ID.fullmatch(presented):
            return None
        key = _key(presented)
        with self._store.pipeline(transaction=False) as commands:
            commands.get(key)
            commands.ttl(key)
            body, left = commands.execute()
        try:
            content = msgspec.json.decode(body, type=_Content) if body else None
        except msgspec.MsgspecError:
            return None  # of another version of the code: its visitor signs in again
        return _Record(key, content, left) if content and self._life(content) > 0 else None

    def _save(self, session: Session, response: Response) -> None:
        if not session:
            session.clear()
            self._end(session, response)
        elif session.record:
            self._update(session.record, session)
        else:
            self._begin(session, response)

    def _begin(self, session: Session, response: Response) -> None:
        new_id = secrets.token_urlsafe(_ID_BYTES)
        content = _Content(int(self._now()), dict(session))
        with self._store.pipeline() as commands:
            if session.ended:
                commands.delete(session.ended.key)
            commands.set(_key(new_id), msgspec.json.encode(content), ex=IDLE_LIFE_S)
            commands.execute()
        response.set_cookie(COOKIE, new_id, httponly=True, samesite="Lax", secure=session.secure)

    def _update(self, record: _Record, session: Session) -> None:
        content = _Content(record.content.created, dict(session))
        # Only if it is still there: a request that was under way at sign-out must not bring it back.
        self._store.set(record.key, msgspec.json.encode(content), ex=max(1, self._life(content)), xx=True)

    def _end(self, session: Session, response: Response) -> None:
        if session.ended:
            self._store.delete(session.ended.key)
            response.delete_cookie(COOKIE, httponly=True, samesite="Lax", secure=session.secure)

    def _touch(self, record: _Record) -> None:
        """Moves the idle expiry and nothing else, so that it undoes no change of another request."""
        life = self._life(record.content)
        if life - record.left > _TOUCH_EVERY_S:
            self._store.expire(record.key, life)

    def _life(self, content: _Content) -> int:
        """The seconds that a session has from now, if it is not used again."""
        return min(IDLE_LIFE_S, content.created + ABSOLUTE_LIFE_S - int(self._now()))


def _key(session_id: str) -> str:
    return f"{NAMESPACE}:session:{hashlib.sha256(session_id.encode()).hexdigest()}"
