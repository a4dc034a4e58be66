"""The filters of the audit log. Pure.

To add a filter, add it to FILTERS: the search, the API and its description, the form, and the record of an
export are made from this list. If it needs terms that aren't indexed yet, add them to `terms_of` and increase
TERMS_VERSION.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from services.audit.log.terms import (
    Wanted,
    term_of,
    terms_by,
    terms_from,
    terms_involving,
    words_of_name,
    words_sought,
)
from shared.clock import rfc3339
from shared.eventstore.codec import EVENT_TYPES
from shared.eventstore.envelope import ActorKind
from shared.eventstore.payload import KEY_SUBJECT

Kind: TypeAlias = Literal["text", "actor_kind", "time"]
Value: TypeAlias = str | int  # a time is in ms since 1970

_AT = "2026-11-23T18:59:21.123Z"


def _no_terms(_: str) -> Wanted:
    return ()


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter: how it is searched, and how the API and the form describe it."""

    name: str
    label: str  # in the form
    description: str  # in the description of the API
    example: str
    kind: Kind = "text"
    terms: Callable[[str], Wanted] = _no_terms  # of a matching event
    by_key_name: bool = False  # `terms` are those of an event that names a key; all events of that key match
    options: tuple[str, ...] = ()  # in the form; any other value is allowed unless `kind` says otherwise


def _subject_of_key(key_id: str) -> Wanted:
    return ((term_of("subject", KEY_SUBJECT + key_id),),)


FILTERS = (
    Filter(
        name="key_id",
        label="Key ID",
        description="Events about this key.",
        example="3fA9bQ27LmZ0",
        terms=_subject_of_key,
    ),
    Filter(
        name="name",
        label="Key name, current or past",
        description="Events about keys that have or had this name. Matches whole words.",
        example="data sync",
        terms=words_of_name,
        by_key_name=True,
    ),
    Filter(
        name="actor",
        label="Actor",
        description="Events caused by this actor: an ID or a label.",
        example="ann@example.org",
        terms=lambda actor: (terms_by(actor),),
    ),
    Filter(
        name="actor_kind",
        label="Actor kind",
        description="Events caused by actors of this kind.",
        example="account",
        kind="actor_kind",
        terms=lambda kind: ((term_of("kind", kind),),),
        options=get_args(ActorKind),
    ),
    Filter(
        name="type",
        label="Event",
        description="Events of this type.",
        example="KeyToggled",
        terms=lambda event_type: ((term_of("type", event_type),),),
        options=tuple(EVENT_TYPES),
    ),
    Filter(
        name="ip",
        label="IP address",
        description="Events from this IP address.",
        example="192.0.2.7",
        terms=lambda ip: (terms_from(ip),),
    ),
    Filter(name="since", label="From (UTC)", description="At or after this time.", example=_AT, kind="time"),
    Filter(name="until", label="Until (UTC)", description="Before this time.", example=_AT, kind="time"),
    Filter(
        name="q",
        label="Search",
        description="Whole words of an event, in any order.",
        example="leaked",
        terms=words_sought,
    ),
)

# What an actor or a key did, and what was done to it. Only the timeline uses it, so it isn't in the API.
INVOLVING = Filter(
    name="involving", label="", description="", example="", terms=lambda of: (terms_involving(of),)
)


def _by_name() -> dict[str, Filter]:
    return {each.name: each for each in (*FILTERS, INVOLVING)}


@dataclass(frozen=True, init=False)
class Filters:
    """Selects entries of a workspace. A filter without a value matches all. `until` isn't included."""

    workspace: str
    values: Mapping[str, Value] = field(hash=False)

    def __init__(self, *, workspace: str, **values: Value | None) -> None:
        """Raises TypeError for an unknown filter or a value of the wrong type."""
        known = _by_name()
        if unknown := values.keys() - known.keys():
            raise TypeError(f"unknown filters of the audit log: {', '.join(sorted(unknown))}")
        given = {name: value for name in known if (value := values.get(name)) is not None}
        for name, value in given.items():
            if isinstance(value, int) != (known[name].kind == "time"):
                raise TypeError(f"the filter {name} doesn't take {type(value).__name__}")
        object.__setattr__(self, "workspace", workspace)
        object.__setattr__(self, "values", given)

    @property
    def since(self) -> int | None:
        return self._time("since")

    @property
    def until(self) -> int | None:
        return self._time("until")

    @property
    def wanted(self) -> Wanted:
        """The terms that an event must have, except those of `namings_wanted`."""
        of_filters = (each for used, terms in self._terms() if not used.by_key_name for each in terms)
        return (term_of("workspace", self.workspace),), *of_filters

    @property
    def namings_wanted(self) -> list[Wanted]:
        """The terms of events that name a key. A match is about one of the keys named like that."""
        workspace = (term_of("workspace", self.workspace),)
        return [(workspace, *terms) for used, terms in self._terms() if used.by_key_name]

    def as_written(self) -> dict[str, str]:
        """The values by name, as a caller writes them. An API key in a value isn't removed."""
        return {
            name: rfc3339(value) if isinstance(value, int) else value for name, value in self.values.items()
        }

    def _terms(self) -> Iterator[tuple[Filter, Wanted]]:
        known = _by_name()
        for name, value in self.values.items():
            used = known[name]
            if isinstance(value, str):
                yield used, used.terms(value)

    def _time(self, name: str) -> int | None:
        value = self.values.get(name)
        return value if isinstance(value, int) else None
