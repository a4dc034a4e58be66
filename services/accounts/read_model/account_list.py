"""The list of accounts: a read model in Redis that catches up with the ledger whenever it is read.

It can be deleted at any time: the next read builds it again.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import msgspec
from redis import Redis

from services.accounts.read_model.projection import VERSION, AccountRow, account_records, fold
from shared.eventstore.envelope import Record
from shared.eventstore.ledger import NAMESPACE, Ledger
from shared.eventstore.subscription import Batch, Pace, StoredCheckpoint, Subscription
from shared.identity import ADMIN, Principal, authorize

_ROOT = f"{NAMESPACE}:view:accounts:{VERSION}:"
_CHECKPOINT = f"{_ROOT}checkpoint"
_ROWS = f"{_ROOT}rows"  # a hash from e-mail addresses to rows
_PLACES = f"{_ROOT}places"  # a sorted set of `<workspace> <e-mail>`, in the order of the list
_PACE = Pace(page=2_000)
_PLACE_END = "!"  # the character after a blank

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AccountRow).decode


class AccountPage(NamedTuple):
    """Accounts in the order of their e-mail addresses. `next_cursor` is None on the last page."""

    rows: list[AccountRow]
    next_cursor: str | None


class AccountList:
    """The accounts of each workspace."""

    def __init__(self, store: Redis, ledger: Ledger) -> None:
        self._store = store
        self._checkpoint = StoredCheckpoint(store, _CHECKPOINT)
        self.catch_up = Subscription(
            ledger, "account list", self._checkpoint, self._update, self._clear, pace=_PACE
        ).catch_up

    def page(self, principal: Principal, limit: int, after: str = "") -> AccountPage:
        """Returns accounts of the caller's workspace, from after an e-mail address on.

        Raises ForbiddenError, redis.RedisError.
        """
        authorize(principal, ADMIN)
        self.catch_up()
        place = f"{principal.workspace} "
        start = f"({place}{after}" if after else f"[{place}"
        end = f"({principal.workspace}{_PLACE_END}"
        found = self._store.zrangebylex(_PLACES, start, end, start=0, num=limit + 1)
        emails = [member.decode().removeprefix(place) for member in cast("list[bytes]", found)]
        rows = self._rows(emails[:limit])
        return AccountPage([*rows.values()], emails[limit - 1] if len(emails) > limit else None)

    def _update(self, batch: Batch) -> bool:
        records = defaultdict[str, list[Record]](list)
        for email, record in account_records(batch.records):
            records[email].append(record)

        def write(pipe: Any) -> None:
            before = self._rows(records)  # read only now, when the checkpoint is watched
            folded = (fold(email, before.get(email), records[email]) for email in records)
            if rows := [row for row in folded if row]:
                pipe.hset(_ROWS, mapping={row.email: _encode(row) for row in rows})
                pipe.zadd(_PLACES, {f"{row.workspace} {row.email}": 0 for row in rows})

        return self._checkpoint.save(batch.after, batch.reached, write)

    def _clear(self) -> None:
        self._store.unlink(_ROWS, _PLACES, _CHECKPOINT)

    def _rows(self, emails: Iterable[str]) -> dict[str, AccountRow]:
        names = [*emails]
        if not names:
            return {}
        found = cast("list[bytes | None]", self._store.hmget(_ROWS, names))
        return {email: _decode(row) for email, row in zip(names, found, strict=True) if row}
