"""Strategies for every event that the codec accepts, derived from the event classes."""

import types
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from shared.eventstore.codec import FORMS, encode
from shared.eventstore.envelope import Actor, NewEvent, Record, Request
from shared.eventstore.payload import Payload

# Usual values, and values beyond any calendar, SQL column or JavaScript number.
INTEGERS = st.integers() | st.sampled_from([0, 2**31, 2**53, 2**63, 2**64, 10**30, -(10**30), 10**4000])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {int: INTEGERS, str: TEXTS, bool: st.booleans()}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """A strategy for all values of a field's type."""
    kind = unmarked(kind)
    if kind in STRATEGIES:
        return STRATEGIES[kind]
    origin, of = get_origin(kind), get_args(kind)
    if origin in {types.UnionType, Union}:
        return st.one_of(*(st.none() if each is types.NoneType else values_of(each) for each in of))
    if origin is tuple:
        return st.lists(values_of(of[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values_of(of[0]), values_of(of[1]), max_size=3)
    if issubclass(kind, msgspec.Struct):
        return st.builds(kind, **{name: values_of(field) for name, field in types_of(kind).items()})
    raise AssertionError(f"no strategy for {kind}")


def types_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of a struct, with the type of each."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def unmarked(kind: Any) -> Any:
    """A field's type without its annotations."""
    return kind.__origin__ if get_origin(kind) is Annotated else kind


def payloads() -> tuple[type[Payload], ...]:
    """The classes of all events."""
    return FORMS


def record(
    payload: Payload, *, subject: str, version: int = 1, position: int = 1, label: str = "ann"
) -> Record:
    """An event as stored by a ledger that doesn't validate it."""
    event = NewEvent(
        id=f"event-{position}",
        type=payload.TYPE,
        schema=payload.SCHEMA,
        subject=subject,
        version=version,
        workspace="default",
        actor=Actor(kind="account", id="account:ann@example.org", label=label),
        request=Request(id="r1", ip="192.0.2.7", user_agent=None),
        data=payload,
    )
    return Record(position, 1_795_460_361_123, encode(event))
