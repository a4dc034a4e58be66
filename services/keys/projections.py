"""Events -> changes of the views. Pure, without side effects, the same at every replay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.keys.domain import Key, evolve, key_id
from shared.events import KEY_SUBJECT, Record, UnreadableEventError, decode, name_of

VERSION = 1  # another fold or another row needs another number, and so views of its own


@dataclass
class Changes:
    """What a page of events makes of the rows: those changed, and the keys set aside with the reason."""

    rows: dict[str, Key] = field(default_factory=dict)
    parked: dict[str, str] = field(default_factory=dict)


def key_ids(records: Iterable[Record]) -> set[str]:
    """The keys that a page of events is about."""
    subjects = (name_of(record).subject or "" for record in records)
    return {key_id(subject) for subject in subjects if subject.startswith(KEY_SUBJECT)}


def project(records: Iterable[Record], rows: Mapping[str, Key], parked: Iterable[str]) -> Changes:
    """Folds a page of events into the rows that were there.

    A key whose event cannot be applied is parked with its reason, and so are its later events: live, one
    bad event stops nothing else. An event that a row has already is passed over.
    """
    changes = Changes()
    aside = set(parked)
    for record in records:
        name = name_of(record).subject
        if name is not None and not name.startswith(KEY_SUBJECT):
            continue
        id_ = key_id(name) if name else f"?{record.position}"
        if id_ in aside:
            continue
        try:
            _apply(record, id_, rows, changes)
        except UnreadableEventError as error:
            aside.add(id_)
            changes.parked[id_] = str(error)
    return changes


def _apply(record: Record, id_: str, rows: Mapping[str, Key], changes: Changes) -> None:
    event = decode(record)
    key = changes.rows.get(id_) or rows.get(id_)
    if key is None or event.version > key.version:
        changes.rows[id_] = evolve(key, event)
