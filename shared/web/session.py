"""Sessions: those of accounts in the store, those of visitors who haven't signed in in a signed cookie.

An account's cookie holds a random ID, and the store keeps the session under the ID's SHA-256 with a code that
authenticates it. So neither reading the store nor writing to it gives anybody a session. Visitors cost the
store nothing: theirs holds little more than the CSRF token of the sign-in form.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import structlog
from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin
from itsdangerous import BadData, URLSafeTimedSerializer
from redis import Redis
from redis.exceptions import OutOfMemoryError

from shared.eventstore.ledger import NAMESPACE
from shared.store.record_mac import RecordMac

IDLE_LIFE_S = 2 * 60 * 60
ABSOLUTE_LIFE_S = 12 * 60 * 60
_TOUCH_EVERY_S = 60
_ID_BYTES = 32
_ID = re.compile(r"[0-9A-Za-z_-]{43}")
_VISITOR_FIELDS = frozenset({"csrf_token", "_flashes"})  # what Flask-WTF and Flask keep in a session
_log = structlog.get_logger(__name__)

# Keeps a session even when the store is out of memory: to revoke a key, people have to sign in. Sign-ins are
# limited and sessions expire, so this takes little.
# KEYS  1 the session  ARGV  the arguments of SET
_KEEP_OVER_LIMIT = """#!lua flags=allow-oom
return redis.call('SET', KEYS[1], unpack(ARGV))
"""


class UnreadableCookieError(Exception):
    """The request has cookies that the server can't read: one contains non-ASCII characters."""


class _Content(msgspec.Struct, frozen=True):
    """A session as stored JSON."""

    created: int  # s since 1970
    data: dict[str, Any]


@dataclass(frozen=True, repr=False)
class _Record:
    """A session in the store: its key there, its content, and how many seconds it has left."""

    key: str
    content: _Content
    left: int


class Session(SessionMixin):
    """One browser's session.

    It is fetched when first looked at, so that a request which needs no session asks the store nothing,
    and one whose store is unavailable fails in its view, where errors are mapped. A value that is changed in
    place is kept only if `modified` is set, as in Flask's own sessions.
    """

    modified = False

    def __init__(
        self, fetch: Callable[[], _Record | dict[str, Any]], *, secure: bool, has_cookie: bool
    ) -> None:
        self.secure = secure
        self.has_cookie = has_cookie
        self.tried = False  # to be saved
        self.record: _Record | None = None
        self.ended: _Record | None = None
        self.signs_in = False  # and so is kept in the store from now on
        self._fetch = fetch
        self._data: dict[str, Any] | None = None

    def _fetched(self) -> dict[str, Any]:
        if self._data is None:
            found = self._fetch()
            self.record = found if isinstance(found, _Record) else None
            self._data = dict(found.content.data if isinstance(found, _Record) else found)
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
        """Ends the session and deletes its record. Values set from now on belong to a visitor's session."""
        self._fetched()
        self.ended, self.record = self.record or self.ended, None
        self.signs_in = False
        self._data = {}
        self.modified = True


def renew(session: SessionMixin) -> None:
    """Starts a new, empty session with a new ID, which the store keeps. Call it at every sign-in.

    Nothing is taken over: an attacker who planted the old session knows its CSRF token.
    """
    session.clear()
    cast("Session", session).signs_in = True


class StoredSessions(SessionInterface):
    """Keeps sessions. Errors of the store are raised, never taken for an empty session."""

    def __init__(self, store: Redis, secret_key: str, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._mac = RecordMac(secret_key, "session")
        self._visitors = URLSafeTimedSerializer(
            secret_key,
            salt="keyledger visitor",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
        self._now = now
        # Browsers send cookies to every port of a host, so each Keyledger needs names of its own.
        instance = hmac.digest(secret_key.encode(), b"keyledger cookie name", "sha256").hex()[:8]
        self._cookie = f"keyledger_session_{instance}"

    def cookie_name(self, *, secure: bool) -> str:
        """The name of the cookie over HTTPS, where no other host can set it, or over plain HTTP."""
        return f"__Host-{self._cookie}" if secure else self._cookie

    def open_session(self, app: Flask, request: Request) -> Session:  # noqa: ARG002  # Flask's signature
        """The session of the request's cookie, or an empty one."""
        presented = request.cookies.get(self.cookie_name(secure=request.is_secure), "")
        # granian gives a header of cookies as empty if one of them isn't ASCII, and joins several headers.
        # A stray semicolon is no sign of it.
        sent = request.environ.get("HTTP_COOKIE")
        unreadable = not presented and sent is not None and not any(map(str.strip, sent.split(";")))

        def fetch() -> _Record | dict[str, Any]:
            if unreadable:
                raise UnreadableCookieError
            return (self._find(presented) if _ID.fullmatch(presented) else self._visitor(presented)) or {}

        return Session(fetch, secure=request.is_secure, has_cookie=bool(presented))

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:  # noqa: ARG002
        """Saves changes. IDs are only ever assigned here, never taken from a visitor."""
        session = cast("Session", session)
        if session.accessed:
            response.vary.add("Cookie")
        if session.tried:
            return  # the page that reports the failure of the first try
        session.tried = True
        if session.modified:
            self._save(session, response)
        elif session.record:
            self._touch(session.record)

    def _find(self, presented: str) -> _Record | None:
        key = _key(presented)
        with self._store.pipeline(transaction=False) as commands:
            commands.get(key)
            commands.ttl(key)
            body, left = commands.execute(raise_on_error=False)
        content = self._authentic(key, body)
        return _Record(key, content, left) if content and self._life(content) > 0 else None

    def _authentic(self, key: str, stored: bytes | Exception | None) -> _Content | None:
        if stored is None:
            return None
        if isinstance(stored, Exception):
            if not str(stored).startswith("WRONGTYPE"):
                raise stored
        else:
            code, _, body = stored.partition(b" ")
            if self._mac.verify(code, key.encode(), body):
                return msgspec.json.decode(body, type=_Content)
        _log.warning("session record rejected: it is not one that Keyledger wrote", record=key)
        return None

    def _visitor(self, presented: str) -> dict[str, Any] | None:
        try:
            data = self._visitors.loads(presented, max_age=ABSOLUTE_LIFE_S)
        except BadData:
            return None
        return {name: value for name, value in data.items() if name in _VISITOR_FIELDS}

    def _save(self, session: Session, response: Response) -> None:
        if session.record and session:
            self._update(session.record, session)
            return
        if ended := session.record or session.ended:
            self._store.delete(ended.key)
        if not session:
            self._delete_cookie(session, response)
        elif session.signs_in:
            self._begin(session, response)
        else:
            self._set_cookie(session, response, self._visitors.dumps(dict(session)))

    def _begin(self, session: Session, response: Response) -> None:
        new_id = secrets.token_urlsafe(_ID_BYTES)
        self._keep(_key(new_id), _Content(int(self._now()), dict(session)))
        self._set_cookie(session, response, new_id)

    def _update(self, record: _Record, session: Session) -> None:
        # Only if it is still there: a request that was under way at sign-out must not bring it back.
        self._keep(record.key, _Content(record.content.created, dict(session)), "XX")

    def _keep(self, key: str, content: _Content, *options: str) -> None:
        body = msgspec.json.encode(content)
        stored = self._mac(key.encode(), body) + b" " + body
        arguments = (stored, "EX", max(1, self._life(content)), *options)
        store = cast("Any", self._store)
        try:
            store.execute_command("SET", key, *arguments)
        except OutOfMemoryError:
            store.eval(_KEEP_OVER_LIMIT, 1, key, *arguments)

    def _set_cookie(self, session: Session, response: Response, value: str) -> None:
        name = self.cookie_name(secure=session.secure)
        response.set_cookie(name, value, httponly=True, samesite="Lax", secure=session.secure)

    def _delete_cookie(self, session: Session, response: Response) -> None:
        if session.has_cookie:
            name = self.cookie_name(secure=session.secure)
            response.delete_cookie(name, httponly=True, samesite="Lax", secure=session.secure)

    def _touch(self, record: _Record) -> None:
        """Extends the idle expiry and nothing else, so that it can't undo a change of another request."""
        life = self._life(record.content)
        if life - record.left > _TOUCH_EVERY_S:
            self._store.expire(record.key, life)

    def _life(self, content: _Content) -> int:
        """Seconds until the session ends if it isn't used again."""
        return min(IDLE_LIFE_S, content.created + ABSOLUTE_LIFE_S - int(self._now()))


def _key(session_id: str) -> str:
    return f"{NAMESPACE}:session:{hashlib.sha256(session_id.encode()).hexdigest()}"
