"""A platform's load on a deployment: verifications, reads and commands, and the responses to each.

A result must reflect every change that was acknowledged longer ago than the bound.
"""

import json
import math
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from threading import Event as Stop
from threading import Thread
from typing import Any, NamedTuple, Self

BOUND_S = 0.5  # how late a verification may reflect a change
_PAUSE_S = 0.05  # before a failed command is retried
_READERS = 7
_COMMANDS, _VERDICTS = 0.02, 0.90  # of all requests; the rest are reads


class Answer(NamedTuple):
    """A response. Status 0 means that a new connection got none."""

    status: int
    body: bytes


@dataclass
class Change:
    """A change of a key's switch. `acknowledged` is infinite until the change is known to be done."""

    enabled: bool
    asked: float
    acknowledged: float = math.inf


@dataclass
class Key:
    """A key and all its changes."""

    id: str
    token: str
    name: str
    made: float
    changes: list[Change] = field(default_factory=list)

    def possible(self, asked: float, answered: float) -> set[str]:
        """Returns the correct results for a verification at that time."""
        settled = [change for change in self.changes if change.acknowledged <= asked - BOUND_S]
        begun = [change for change in self.changes if change not in settled and change.asked < answered]
        last = settled[-1].enabled if settled else True
        return {
            "VALID" if enabled else "DISABLED" for enabled in (last, *(change.enabled for change in begun))
        }


class Outcome(NamedTuple):
    """The outcome of one request."""

    kind: str
    asked: float
    answered: float
    status: int
    wrong: str | None = None  # a result that contradicts an acknowledged change


class Client:
    """A keep-alive connection that reconnects if the server has closed it."""

    def __init__(self, port: int, certificate: str, token: str) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=certificate)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: HTTPSConnection | None = None
        self.closed_meanwhile = 0

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Sends a request, and retries once if the server had closed the keep-alive connection.

        All of this load may be repeated.
        """
        kept = self._connection is not None
        try:
            return self._send(method, path, body, headers)
        except (HTTPException, OSError):
            self.close()
            if not kept:
                return Answer(0, b"")
            self.closed_meanwhile += 1
        try:
            return self._send(method, path, body, headers)
        except (HTTPException, OSError):
            self.close()
            return Answer(0, b"")

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _send(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None) -> Answer:
        if self._connection is None:
            self._connection = HTTPSConnection("127.0.0.1", self._port, timeout=20, context=self._context)
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, {**self._headers, **(headers or {})})
        answer: HTTPResponse = self._connection.getresponse()
        return Answer(answer.status, answer.read())


class Load:
    """A constant rate of requests from several concurrent clients."""

    def __init__(self, client: Callable[[], Client], rate: float) -> None:
        self._client = client
        self._rate = rate
        self._over = Stop()
        self.keys: list[Key] = []
        self.created: dict[str, str] = {}  # by name, each of which is used once
        self.outcomes: list[Outcome] = []
        self.closed_meanwhile = 0
        self._threads = [
            Thread(target=self._run, args=(self._ask, (1 - _COMMANDS) / _READERS)) for _ in range(_READERS)
        ]
        self._threads.append(Thread(target=self._run, args=(self._command, _COMMANDS)))

    def make(self, steady: int, off: int, switched: int) -> None:
        """Creates the initial keys. The last of them are disabled and enabled all the time."""
        client = self._client()
        for _ in range(steady + off + switched):
            self._create(client)
        for key in self.keys[steady : steady + off]:
            self._switch(client, key)
        self._switched = self.keys[steady + off :]
        self.outcomes.clear()
        client.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, act: Callable[[Client, random.Random], None], share: float) -> None:
        """Sends requests at a fixed rate. If it falls behind, it doesn't catch up."""
        client, chance = self._client(), random.Random(id(act))
        due = time.monotonic()
        while not self._over.wait(max(due - time.monotonic(), 0)):
            act(client, chance)
            due = max(due + 1 / (self._rate * share), time.monotonic() - 1)
        client.close()
        self.closed_meanwhile += client.closed_meanwhile

    def _ask(self, client: Client, chance: random.Random) -> None:
        if chance.random() < _VERDICTS / (1 - _COMMANDS):
            self._verify(client, chance.choice(self.keys))
        else:
            # The views may not include very recent changes yet.
            self._read(client, chance.choice(self._switched), chance)

    def _verify(self, client: Client, key: Key) -> None:
        asked = time.monotonic()
        answer = client.ask("POST", "/v1/keys/verify", {"api_key": key.token})
        answered, wrong = time.monotonic(), None
        if answer.status == 200 and asked > key.made + BOUND_S:
            code, possible = json.loads(answer.body)["code"], key.possible(asked, answered)
            wrong = None if code in possible else f"{code} for {key.name}, not {possible}"
        self.outcomes.append(Outcome("verify", asked, answered, answer.status, wrong))

    def _read(self, client: Client, key: Key, chance: random.Random) -> None:
        kind, path = chance.choice(
            [
                ("read", "/v1/keys?limit=20"),
                ("read", f"/v1/keys/{key.id}"),
                ("read", f"/v1/keys/{key.id}/history"),
                ("audit", f"/v1/audit/entries?key_id={key.id}&limit=5"),
            ]
        )
        self._asked(client, kind, "GET", path)

    def _command(self, client: Client, chance: random.Random) -> None:
        if chance.random() < 0.5:
            self._create(client)
        else:
            self._switch(client, chance.choice(self._switched))

    def _create(self, client: Client) -> None:
        name = f"key {len(self.created)}"
        headers = {"Idempotency-Key": name.replace(" ", "-")}
        made = self._until_done(client, "POST", "/v1/keys", {"name": name}, headers)
        self.created[name] = made["id"]
        if "api_key" in made:  # the key is only shown once, and this response arrived
            self.keys.append(Key(made["id"], made["api_key"], name, time.monotonic()))

    def _switch(self, client: Client, key: Key) -> None:
        enabled = bool(key.changes) and not key.changes[-1].enabled
        change = Change(enabled, time.monotonic())
        key.changes.append(change)
        self._until_done(client, "PATCH", f"/v1/keys/{key.id}", {"enabled": enabled})
        change.acknowledged = time.monotonic()

    def _until_done(
        self, client: Client, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Retries if the outcome is unknown."""
        while True:
            answer = self._asked(client, "command", method, path, body, headers)
            if answer.status in {200, 201}:
                return json.loads(answer.body)
            time.sleep(_PAUSE_S)

    def _asked(
        self,
        client: Client,
        kind: str,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        asked = time.monotonic()
        answer = client.ask(method, path, body, headers)
        self.outcomes.append(Outcome(kind, asked, time.monotonic(), answer.status))
        return answer
