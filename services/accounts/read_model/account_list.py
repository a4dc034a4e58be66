"""The list of people: a read model in Redis, brought up to the ledger's head whenever it is asked for.

Deleting it and asking again gives the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgspec
from redis import Redis, WatchError

from services.accounts.read_model.projection import VERSION, About, AccountRow, about_people, fold
from shared.eventstore.ledger import BEGINNING, NAMESPACE, Checkpoint, Ledger, checkpoint_at
from shared.identity import ADMIN, Principal, authorize

_ROOT = f"{NAMESPACE}:view:accounts:{VERSION}:"
_CHECKPOINT = f"{_ROOT}checkpoint"
_ROWS = f"{_ROOT}rows"  # a hash: of each address the row
_PLACES = f"{_ROOT}places"  # a sorted set of `<workspace> <address>`, for the lists in the order of addresses
_PAGE = 1_000
_RECORDS_A_WRITE = 20_000
_PLACE_END = "!"  # the character after a blank

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AccountRow).decode


class Page(NamedTuple):
    """Some people in the order of their addresses, and the address to go on after, if there are more."""

    people: list[AccountRow]
    next_cursor: str | None


@dataclass(frozen=True)
class AccountList:
    """Who is in a workspace."""

    store: Redis
    ledger: Ledger

    def page(self, principal: Principal, limit: int, after: str = "") -> Page:
        """The people of the caller's workspace behind an address. Raises ForbiddenError, redis.RedisError."""
        authorize(principal, ADMIN)
        self.catch_up()
        place = f"{principal.workspace} "
        start = f"({place}{after}" if after else f"[{place}"
        end = f"({principal.workspace}{_PLACE_END}"
        found = self.store.zrangebylex(_PLACES, start, end, start=0, num=limit + 1)
        emails = [member.decode().removeprefix(place) for member in cast("list[bytes]", found)]
        rows = self._rows(emails[:limit])
        return Page([*rows.values()], emails[limit - 1] if len(emails) > limit else None)

    def catch_up(self) -> None:
        """Reads what the ledger has more; all of it, if that is no longer the ledger that was read."""
        while self._step():
            pass

    def _step(self) -> bool:
        """Some of that, in one atomic step; whether there may be more."""
        expected = self._checkpoint()
        start = expected if self.ledger.holds(expected) else BEGINNING
        told, reached = self._read(start)
        if reached == expected:
            return False
        self._write(expected, start, told, reached)
        return True

    def _read(self, start: Checkpoint) -> tuple[dict[str, list[About]], Checkpoint]:
        """What is told of each person after a checkpoint, and where that ends."""
        told: dict[str, list[About]] = {}
        reached, count = start, 0
        pages = self.ledger.pages(start.position, _PAGE)
        for records in pages:
            for about in about_people(records):
                told.setdefault(about.email, []).append(about)
            reached, count = checkpoint_at(records), count + len(records)
            if count >= _RECORDS_A_WRITE:
                pages.close()
        return told, reached

    def _write(
        self, expected: Checkpoint, start: Checkpoint, told: dict[str, list[About]], reached: Checkpoint
    ) -> None:
        """Nothing, if another process was faster."""
        with cast("Any", self.store.pipeline()) as pipe:
            pipe.watch(_CHECKPOINT)
            if _parsed(pipe.get(_CHECKPOINT)) != expected:
                return
            before = self._rows(told) if start == expected else {}
            after = {email: fold(before.get(email), told[email]) for email in told}
            people = [person for person in after.values() if person]
            pipe.multi()
            if start != expected:
                pipe.unlink(_ROWS, _PLACES)
            if people:
                pipe.hset(_ROWS, mapping={person.email: _encode(person) for person in people})
                pipe.zadd(_PLACES, {f"{person.workspace} {person.email}": 0 for person in people})
            pipe.set(_CHECKPOINT, f"{reached.position} {reached.event_id}")
            try:
                pipe.execute()
            except WatchError:
                return

    def _rows(self, emails: Iterable[str]) -> dict[str, AccountRow]:
        names = [*emails]
        if not names:
            return {}
        found = cast("list[bytes | None]", self.store.hmget(_ROWS, names))
        return {email: _decode(row) for email, row in zip(names, found, strict=True) if row}

    def _checkpoint(self) -> Checkpoint:
        return _parsed(cast("bytes | None", self.store.get(_CHECKPOINT)))


def _parsed(value: bytes | None) -> Checkpoint:
    if value is None:
        return BEGINNING
    position, _, event_id = value.decode().partition(" ")
    return Checkpoint(int(position), event_id)
