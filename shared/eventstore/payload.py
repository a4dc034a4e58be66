"""The base of every event class, and the marks that describe its fields. Pure.

The codec, the redaction, the audit log's search, the API and the documentation are made from these facts.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from functools import cache
from types import MappingProxyType, UnionType
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

from shared.clock import FIRST_TIME, LAST_TIME, printable_time, rfc3339

KEY_SUBJECT = "key:"
ACCOUNT_SUBJECT = "account:"
# Frequent events have subjects of their own, so that the history of a key or an account stays short.
SIGN_IN_SUBJECT = "sign-in:"  # then an e-mail address
ADDRESS_SUBJECT = "address:"  # then an IP address
ACCESS_SUBJECT = "access:"  # then the kind and the id of a caller
AUDIT_SUBJECT = "audit:"  # then what was done with the audit log


class Mark(Enum):
    """A fact about a field that its type doesn't state. A field without marks is text that a user typed."""

    COMPUTED = auto()  # made by the code
    REPEATED = auto()  # repeats what was stated elsewhere: an API key in it is removed instead of refused
    OPTIONAL = auto()  # an empty text stands for none
    TIME = auto()  # ms since 1970
    HIDDEN = auto()  # isn't among the changes that people read
    UNSEARCHED = auto()  # isn't among the words that the audit log is searched by
    KEY_NAME = auto()  # names an API key


_T = TypeVar("_T")
Computed: TypeAlias = Annotated[_T, Mark.COMPUTED]
Repeated: TypeAlias = Annotated[_T, Mark.REPEATED]
Hidden: TypeAlias = Annotated[_T, Mark.HIDDEN]
Digest: TypeAlias = Annotated[str, Mark.COMPUTED, Mark.HIDDEN, Mark.UNSEARCHED]
KeyName: TypeAlias = Annotated[str, Mark.KEY_NAME]
Reason: TypeAlias = Annotated[str, Mark.OPTIONAL]
Time: TypeAlias = Annotated[int, Mark.TIME]


class Change(NamedTuple):
    """What an event changed, for people to read. `before` is None where there was nothing before."""

    field: str
    before: Any
    after: Any
    is_time: bool = False


class Description(NamedTuple):
    """An event for people to read."""

    title: str
    changes: tuple[Change, ...]


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happened, in the past tense.

    There are no floats, so that the canonical form of RFC 8785 is plain JSON with sorted names.
    """

    TYPE: ClassVar[str]  # permanent
    SCHEMA: ClassVar[int]
    TITLE: ClassVar[str]
    SUBJECTS: ClassVar[tuple[str, ...]]  # the prefixes of what it can be about

    def upcast(self) -> "Payload":
        """The same payload in the present form of its type."""
        return self

    def describe(self) -> Description:
        """Title and changes. A class overrides it if its changes aren't just the fields that were set."""
        return Description(self.TITLE, self.fields_set())

    def fields_set(self) -> tuple[Change, ...]:
        """The fields that aren't hidden and have a value."""
        values = ((name, of, getattr(self, name)) for name, of in marks(type(self)).items())
        return tuple(
            Change(name, None, value, Mark.TIME in of)
            for name, of, value in values
            if Mark.HIDDEN not in of and value not in (None, "", ())
        )


Payloads: TypeAlias = Sequence[Payload]


@cache
def marks(struct: type[msgspec.Struct]) -> Mapping[str, frozenset[Mark]]:
    """The fields of a class in their order, with the marks of each."""
    return MappingProxyType(
        {field.name: frozenset(_marks_of(field.type)) for field in msgspec.structs.fields(struct)}
    )


def _marks_of(kind: Any) -> Iterator[Mark]:
    if get_origin(kind) is Annotated:
        yield from (each for each in kind.__metadata__ if isinstance(each, Mark))
        yield from _marks_of(kind.__origin__)
    elif get_origin(kind) in {Union, UnionType}:
        for each in get_args(kind):
            yield from _marks_of(each)


_S = TypeVar("_S", bound=msgspec.Struct)


def differences(before: _S, after: _S) -> tuple[Change, ...]:
    """The fields of two structs of a class that differ."""
    pairs = (
        (name, of, getattr(before, name), getattr(after, name)) for name, of in marks(type(after)).items()
    )
    return tuple(Change(name, old, new, Mark.TIME in of) for name, of, old, new in pairs if old != new)


@cache
def _paths_to_times(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields that are times or contain times."""
    return tuple(
        field.name
        for field in msgspec.structs.fields(struct)
        if Mark.TIME in marks(struct)[field.name] or any(map(_paths_to_times, _structs_in(field.type)))
    )


def _structs_in(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs that a field of the type is. Those in a tuple or a dict have no times."""
    if get_origin(kind) is Annotated:
        kind = kind.__origin__
    for each in get_args(kind) if get_origin(kind) in {Union, UnionType} else [kind]:
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            yield each


def has_times(struct: type[msgspec.Struct]) -> bool:
    """Whether a field is a time, or a field of a field."""
    return bool(_paths_to_times(struct))


def with_printable_times(struct: _S) -> _S:
    """The struct with the nearest printable time for each that can't be printed.

    Nothing writes such a time today, but a ledger may hold one, and all that is read must be shown.
    """
    for name in _paths_to_times(type(struct)):
        value = getattr(struct, name)
        if isinstance(value, int):
            shown: Any = value if FIRST_TIME <= value <= LAST_TIME else printable_time(value)
        else:
            shown = value and with_printable_times(value)
        if shown is not value:
            struct = msgspec.structs.replace(struct, **{name: shown})
    return struct


def to_json(value: Any) -> Any:
    """A payload as the API returns it: times in RFC 3339, and null for an empty optional text."""
    if not isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    return {name: _field_to_json(getattr(value, name), of) for name, of in marks(type(value)).items()}


def _field_to_json(value: Any, of: frozenset[Mark]) -> Any:
    if Mark.TIME in of and value is not None:
        return rfc3339(value)
    return None if Mark.OPTIONAL in of and value == "" else to_json(value)


def key_name(payload: msgspec.Struct) -> str | None:
    """The name that a payload gives to its API key; None if it doesn't name one."""
    for name, of in marks(type(payload)).items():
        value = getattr(payload, name)
        if Mark.KEY_NAME in of:
            return str(value)
        if isinstance(value, msgspec.Struct) and Mark.REPEATED not in of and (found := key_name(value)):
            return found
    return None


def key_name_paths(struct: type[msgspec.Struct]) -> Iterator[tuple[str, ...]]:
    """Where the names of API keys are in a payload, also those that are only repeated."""
    for field in msgspec.structs.fields(struct):
        if Mark.KEY_NAME in marks(struct)[field.name]:
            yield (field.name,)
        for inner in _structs_in(field.type):
            yield from ((field.name, *path) for path in key_name_paths(inner))
