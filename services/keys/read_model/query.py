"""A page of a workspace's keys: by the part of the index that leads to them with the least reading."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, cast

from redis import Redis

from services.keys.model.key import STATUSES, Key, Status
from services.keys.model.token import is_key_id
from services.keys.read_model.criteria import NEWEST_FIRST, Criteria
from services.keys.read_model.cursor import NO_CURSOR, Cursor, CursorError, parse_cursor
from services.keys.read_model.index import STATES, WORDS, between, id_of, member_of, place, place_of
from services.keys.read_model.sources import Gathered, InOrder, Source

_A_TIME = 1_000  # members of the index that one command reads
_MAX_ROWS = 5_000  # that are read for a page
_MAX_PLACES = 100_000  # of the index that are passed for a page
_MAX_GATHERED = 100_000  # candidates that are gathered for a page
_MAX_SORTED = 2_000  # candidates whose rows are read only to sort them
_TRIED = 1_000  # places that are passed in order, first of all, where that is likely to be enough
_LIKELY = 10  # one key of so many is to be in the list

_STATE: dict[Status, str] = {
    "active": "enabled",
    "expired": "enabled",
    "inactive": "inactive",
    "revoked": "revoked",
}
RowsOf: TypeAlias = Callable[[Iterable[str]], dict[str, Key]]


class Page(NamedTuple):
    """Some keys in the order of a list, and where to go on, if there may be more."""

    keys: list[Key]
    next_cursor: str | None


@dataclass
class _Part:
    """What a page has so far, and where it stands in the order."""

    limit: int
    mark: bytes
    keys: list[Key] = field(default_factory=list)
    full: bool = False  # and there is another behind it
    ended: bool = False


class _Narrowing(NamedTuple):
    """A criterion that the index knows, how many keys it leaves at most, and how to gather them."""

    number: int
    gather: Callable[[], set[bytes]]  # their places


@dataclass(frozen=True)
class Listing:
    """The keys of a workspace at a time in ms. `name_of` gives the name of a kind of its index in the store,
    and `rows` reads the rows of ids.
    """

    store: Redis
    name_of: Callable[[str], str]
    rows: RowsOf
    workspace: str
    now: int

    def page(self, limit: int, cursor: str | None, criteria: Criteria) -> Page:
        """Some keys behind a cursor. Raises CursorError."""
        begin = parse_cursor(cursor) if cursor else Cursor(criteria.sort, b"")
        if begin.sort != criteria.sort:
            raise CursorError(NO_CURSOR)
        if criteria.column == "status":
            return self._by_status(limit, begin, criteria)
        part = self._part(limit, begin.member, criteria)
        return Page(part.keys, None if part.ended else str(begin._replace(member=part.mark)))

    def _by_status(self, limit: int, begin: Cursor, criteria: Criteria) -> Page:
        """One status after the other, each newest first."""
        keys: list[Key] = []
        statuses: list[Status] = sorted(STATUSES, reverse=criteria.descending)
        at = statuses.index(cast("Status", begin.status)) if begin.status else 0
        for status in statuses[at:]:
            if criteria.status not in {None, status}:
                continue
            mark = begin.member if status == begin.status else b""
            of_status = Criteria(criteria.search, status, NEWEST_FIRST)
            part = self._part(limit - len(keys), mark, of_status)
            keys += part.keys
            if not part.ended:
                return Page(keys, str(Cursor(criteria.sort, part.mark, status)))
        return Page(keys, None)

    def _part(self, limit: int, mark: bytes, criteria: Criteria) -> _Part:
        part = _Part(limit, mark)
        for source, places_most in self._sources(criteria):
            self._fill(part, source, places_most, criteria)
            if part.full or part.ended:
                break
        return part

    def _fill(self, part: _Part, source: Source, places_most: int, criteria: Criteria) -> None:
        """Adds what matches until the page is full, or so much was read."""
        passed, read, number = 0, 0, part.limit + 1
        while passed < places_most and read < _MAX_ROWS:
            found, reached = source.after(part.mark, number)
            members = self._having(criteria.status, found)
            self._add(part, members, criteria)
            if part.full:
                return
            if reached is None:
                part.ended = True
                return
            part.mark = reached
            passed, read, number = passed + number, read + len(members), min(4 * number, _A_TIME)

    def _add(self, part: _Part, members: list[bytes], criteria: Criteria) -> None:
        rows = self.rows(map(id_of, members))
        for member in members:
            key = rows.get(id_of(member))
            # The row has the last word: it may have changed since the index was read.
            if key is not None and criteria.match(key, self.now):
                if len(part.keys) == part.limit:
                    part.full = True
                    return
                part.keys.append(key)
            part.mark = member

    def _having(self, status: Status | None, members: list[bytes]) -> list[bytes]:
        """Those that have a status by the index, which is read faster than rows are."""
        if status is None or not members:
            return members
        places = [*map(place_of, members)]
        with cast("Any", self.store.pipeline(transaction=False)) as pipe:
            pipe.zmscore(self.name_of(_STATE[status]), places)
            pipe.zmscore(self.name_of("expires"), places)
            stored, ends = pipe.execute()
        return [
            member
            for member, there, end in zip(members, stored, ends, strict=True)
            if there is not None and (end is not None and end <= self.now) == (status == "expired")
        ]

    def _sources(self, criteria: Criteria) -> Iterator[tuple[Source, int]]:
        """Where to read from, one after the other until the page is full, and how many places of each."""
        in_order = self._in_order(criteria)
        number, narrowings = self._narrowings(criteria)
        if not narrowings:
            yield in_order, _MAX_PLACES
            return
        narrowest = narrowings[0].number
        if narrowest > number / _LIKELY:
            yield in_order, _TRIED
        if narrowest > _MAX_GATHERED:
            yield in_order, _MAX_PLACES
        else:
            yield self._gathered(criteria, narrowings), _MAX_PLACES

    def _in_order(self, criteria: Criteria, only: set[bytes] | None = None) -> Source:
        """All that may be in the list, in its order."""
        kinds: Sequence[str] = [f"{criteria.column}s"]
        if criteria.column == "created_at":
            kinds = STATES if criteria.status is None else [_STATE[criteria.status]]
        return InOrder(self.store, [*map(self.name_of, kinds)], criteria.descending, only)

    def _gathered(self, criteria: Criteria, narrowings: list[_Narrowing]) -> Source:
        places = narrowings[0].gather()
        for narrowing in narrowings[1:]:
            if len(places) > _MAX_SORTED and narrowing.number <= _MAX_GATHERED:
                places &= narrowing.gather()
        if criteria.column == "created_at":
            return Gathered(sorted(places), criteria.descending)
        if len(places) > _MAX_SORTED:
            return self._in_order(criteria, places)
        rows = self.rows(map(id_of, places)).values()
        return Gathered(sorted(member_of(f"{criteria.column}s", key) for key in rows), criteria.descending)

    def _narrowings(self, criteria: Criteria) -> tuple[int, list[_Narrowing]]:
        """How many keys there are, and what narrows them, the narrowest first."""
        sought = criteria.sought
        with cast("Any", self.store.pipeline(transaction=False)) as pipe:
            for state in STATES:
                pipe.zcard(self.name_of(state))
            pipe.zcount(self.name_of("expires"), "-inf", self.now)
            for word in sought:
                for kind in WORDS:
                    pipe.zlexcount(self.name_of(kind), *between(word))
            counts = pipe.execute()
        in_state, expired = dict(zip(STATES, counts, strict=False)), counts[len(STATES)]
        firsts, others = counts[len(STATES) + 1 :: 2], counts[len(STATES) + 2 :: 2]
        narrowings = [
            _Narrowing(first + other + 1, partial(self._of_word, word, criteria))
            for word, first, other in zip(sought, firsts, others, strict=True)
        ]
        if criteria.id and not sought:
            narrowings.append(_Narrowing(0, set))
        if criteria.status == "expired":
            narrowings.append(_Narrowing(expired, partial(self._ranked, "expires", expired)))
        elif criteria.status is not None and criteria.column != "created_at":
            state = _STATE[criteria.status]
            narrowings.append(_Narrowing(in_state[state], partial(self._ranked, state, in_state[state])))
        return sum(in_state.values()), sorted(narrowings, key=itemgetter(0))

    def _of_word(self, word: str, criteria: Criteria) -> set[bytes]:
        """Those whose names have a word that begins so; and the one that has the whole id."""
        places: set[bytes] = set()
        for kind in WORDS:
            name, (start, end) = self.name_of(kind), between(word)
            while members := cast("list[bytes]", self.store.zrangebylex(name, start, end, 0, _A_TIME)):
                places.update(map(place_of, members))
                start = b"(" + members[-1]
        if is_key_id(criteria.id):
            keys = self.rows([criteria.id]).values()
            places.update(place(key) for key in keys if key.workspace == self.workspace)
        return places

    def _ranked(self, kind: str, number: int) -> set[bytes]:
        """The first so many of a kind."""
        places: set[bytes] = set()
        for start in range(0, number, _A_TIME):
            stop = min(start + _A_TIME, number) - 1
            places.update(cast("list[bytes]", self.store.zrange(self.name_of(kind), start, stop)))
        return places
