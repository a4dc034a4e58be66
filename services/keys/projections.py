"""Events -> changes of the views. Pure, without side effects, the same at every replay."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from services.keys.domain import Key, evolve, key_id
from shared.events import KEY_SUBJECT, Event, Record, UnreadableEventError, decode

VERSION = 4  # another fold or another row needs another number, and so views of its own


@dataclass
class Changes:
    """What a page of events makes of the rows: those changed, as they were before unless they are new, the
    keys set aside with the reason, and those that are no longer.
    """

    rows: dict[str, Key] = field(default_factory=dict)
    before: dict[str, Key] = field(default_factory=dict)
    parked: dict[str, str] = field(default_factory=dict)
    taken_up: list[str] = field(default_factory=list)


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
    bad event stops nothing else. An event that a row has already is passed over.
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
        if id_ in aside or id_ in parked:
            continue
        try:
            _apply(event, id_, changes, rows)
        except UnreadableEventError as error:
            aside[id_] = str(error)


def _apply(event: Read, id_: str, changes: Changes, rows: Mapping[str, Key]) -> None:
    if isinstance(event, UnreadableEventError):
        raise event
    before = rows.get(id_)
    key = changes.rows.get(id_, before)
    if key is None or event.version > key.version:
        changes.rows[id_] = evolve(key, event)
        if before is not None:
            changes.before[id_] = before


def _read(record: Record) -> Read:
    try:
        return decode(record)
    except UnreadableEventError as error:
        return error
