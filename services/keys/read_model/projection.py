"""Events -> changes of the views. Pure, without side effects, the same at every replay."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec.structs import replace

from services.keys.model.key import Key, evolve, key_id
from services.keys.model.token import is_key_id
from shared.eventstore.codec import decode
from shared.eventstore.envelope import Event, Record, UnreadableEventError
from shared.eventstore.events import KeyRevoked
from shared.eventstore.payload import KEY_SUBJECT

REVISION = 6  # increment it if rows are computed or stored in another way, so that they are rebuilt
VERSION = f"{REVISION}.{len(Key.__struct_fields__)}"  # a new field of a key also needs new rows

NOT_A_KEY = "its subject isn't the id of a key, so nobody could show or revoke it"


@dataclass
class Changes:
    """What a page of events makes of the rows: those changed, as they were before unless they are new, the
    keys set aside with the reason, and those that are no longer.
    """

    rows: dict[str, Key] = field(default_factory=dict)
    before: dict[str, Key] = field(default_factory=dict)
    parked: dict[str, str] = field(default_factory=dict)
    unparked: list[str] = field(default_factory=list)


Read: TypeAlias = Event | UnreadableEventError


def read(records: Iterable[Record]) -> list[Read]:
    """The events of a page; in the place of one that cannot be read whole, why."""
    return [_read(record) for record in records]


def key_ids(events: Iterable[Read]) -> set[str]:
    """The keys that a page of events is about."""
    return {
        key_id(event.subject) for event in events if event.subject and event.subject.startswith(KEY_SUBJECT)
    }


def project(
    events: Iterable[Read], rows: Mapping[str, Key], parked: Container[str], changes: Changes
) -> None:
    """Folds a page of events into the rows that were there, and adds what comes of it to the changes.

    A key whose event cannot be applied is parked with its reason, and so are its later events: live, one
    bad event stops nothing else. Only a revocation still shows, for it holds whatever came before. An event
    that a row has already is passed over.
    """
    aside = changes.parked
    for event in events:
        subject = event.subject
        if subject is None:  # nobody can tell whose it is
            aside[f"?{event.position}"] = str(event)
            continue
        if not subject.startswith(KEY_SUBJECT):
            continue
        id_ = key_id(subject)
        if not is_key_id(id_):
            aside[id_] = NOT_A_KEY
            continue
        if id_ not in aside and id_ not in parked:
            try:
                _apply(event, id_, changes, rows)
                continue
            except UnreadableEventError as error:
                aside[id_] = str(error)
        _revoke(event, id_, changes, rows)


def _apply(event: Read, id_: str, changes: Changes, rows: Mapping[str, Key]) -> None:
    if isinstance(event, UnreadableEventError):
        raise event
    key = changes.rows.get(id_, rows.get(id_))
    if key is None or event.version > key.version:
        _set(evolve(key, event), changes, rows)


def _revoke(event: Read, id_: str, changes: Changes, rows: Mapping[str, Key]) -> None:
    """Ends a key that is parked, if that is what the event does and the key has a row."""
    key = changes.rows.get(id_, rows.get(id_))
    if isinstance(event, Event) and isinstance(event.data, KeyRevoked) and key is not None:
        _set(replace(key, revoked=True, updated_at=event.at, version=event.version), changes, rows)


def _set(key: Key, changes: Changes, rows: Mapping[str, Key]) -> None:
    changes.rows[key.id] = key
    if key.id in rows:
        changes.before[key.id] = rows[key.id]


def _read(record: Record) -> Read:
    try:
        return decode(record)
    except UnreadableEventError as error:
        return error
