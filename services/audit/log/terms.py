"""The terms by which entries are indexed and found. Pure.

A term is a word of the event's text, or it is made for a filter: its kind, `=`, and a hash of the whole
value or a word of a key's name. Words have no `=`, so no text can imitate a filter's term.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from services.audit.log.audit_entry import AuditEvent, parse_event
from shared.eventstore.codec import FORMS
from shared.eventstore.envelope import Record
from shared.eventstore.payload import (
    ACCOUNT_SUBJECT,
    KEY_SUBJECT,
    SIGN_IN_SUBJECT,
    Mark,
    key_name_paths,
    marks,
)
from shared.text import words
from shared.text.email_addresses import spellings
from shared.text.ip_addresses import canonical_ip

TERMS_VERSION = 2  # increase it if `terms_of` or a filter changes, so that every index is rebuilt
_HASH_BYTES = 10
_MAX_CHARACTERS = 64  # of a word; longer ones are cut, both in the index and in a search
_MAX_WORDS = 1_000  # of an event
_MAX_WORDS_SOUGHT = 64  # of a search
_UNSEARCHED = frozenset(name for form in FORMS for name, of in marks(form).items() if Mark.UNSEARCHED in of)
_KEY_NAMES = frozenset(path for form in FORMS for path in key_name_paths(form))

Wanted: TypeAlias = tuple[tuple[str, ...], ...]  # at least one term of each


def terms_of(record: Record) -> set[str]:
    """All terms of an event. An event that isn't a JSON object has none."""
    event = parse_event(record)
    return _filter_terms(event).union(_words_of(event.fields))


def has_terms(event: AuditEvent, wanted: Wanted) -> bool:
    """Whether an event has the terms, as an intact index answers. Raises nothing."""
    terms = _filter_terms(event)
    if any(terms.isdisjoint(each) for each in wanted if _is_filter(each)):
        return False
    # Words come last because they take the longest.
    sought = [each for each in wanted if not _is_filter(each)]
    if not sought or event.stored is None or not _may_have_words(event.stored.body, sought):
        return not sought
    terms.update(_words_of(event.fields))
    return not any(terms.isdisjoint(each) for each in sought)


def _may_have_words(body: bytes, sought: Iterable[tuple[str, ...]]) -> bool:
    """Whether an event can have the words. It searches the bytes, if no character is folded or escaped."""
    if not body.isascii() or b"\\u" in body:
        return True
    text = body.lower()
    return all(any(word.encode() in text for word in each) for each in sought)


def _is_filter(terms: tuple[str, ...]) -> bool:
    return all("=" in term for term in terms)


def _filter_terms(event: AuditEvent) -> set[str]:
    """The terms that are made for filters."""
    filters = {
        "workspace": event.workspace,
        "subject": event.subject,
        "actor": event.actor["id"],
        "label": event.actor["label"],
        "kind": event.actor["kind"],
        "type": event.type,
    }
    terms = {term_of(kind, value) for kind, value in filters.items() if value is not None}
    if event.ip is not None:
        terms.update(terms_from(event.ip))
    terms |= {f"name={word}" for name in _names(event.data) for word in _words(name)}
    return terms


@lru_cache(4_096)
def term_of(kind: str, value: str) -> str:
    """The term of a filter that matches a whole value."""
    return f"{kind}={hashlib.blake2b(value.encode(), digest_size=_HASH_BYTES).hexdigest()}"


def terms_involving(actor_id: str) -> tuple[str, ...]:
    """The terms of the events that an account or key caused, or that changed it."""
    sign_ins = SIGN_IN_SUBJECT + actor_id.removeprefix(ACCOUNT_SUBJECT)
    subjects = (actor_id, KEY_SUBJECT + actor_id, sign_ins)
    return term_of("actor", actor_id), *(term_of("subject", subject) for subject in subjects)


@lru_cache(4_096)
def terms_from(ip: str) -> tuple[str, ...]:
    """The terms of an IP address: its canonical form and, for old entries, its original spelling."""
    return tuple(term_of("address", spelling) for spelling in {canonical_ip(ip) or ip, ip})


def terms_by(actor: str) -> tuple[str, ...]:
    """The terms of an actor's ID or label, in every spelling of an e-mail or IP address."""
    prefix = ACCOUNT_SUBJECT if actor.startswith(ACCOUNT_SUBJECT) else ""
    emails = {prefix + email for email in spellings(actor.removeprefix(prefix))} if "@" in actor else set()
    names = emails | {actor, canonical_ip(actor) or actor}
    return tuple(term_of(kind, name) for kind in ("actor", "label") for name in names)


def words_sought(text: str) -> Wanted:
    """The words of a search. A text without words matches nothing."""
    return tuple((word,) for word in _sought(text)) or ((),)


def words_of_name(text: str) -> Wanted:
    """The same for the name of a key."""
    return tuple((f"name={word}",) for word in _sought(text)) or ((),)


def _sought(text: str) -> list[str]:
    return list(dict.fromkeys(word[:_MAX_CHARACTERS] for word in words.words_sought(text)))[
        :_MAX_WORDS_SOUGHT
    ]


def _words(text: str) -> list[str]:
    found = words.words(text)
    return [word[:_MAX_CHARACTERS] for word in (found if text.isascii() else words.with_characters(found))]


def _words_of(stored: Mapping[str, Any]) -> list[str]:
    """The words of all texts, each once. Texts that aren't ASCII are split separately, which is slower."""
    texts = [*_texts(stored)]
    found = _words(" ".join(text for text in texts if text.isascii()))
    for text in texts:
        if not text.isascii():
            found += _words(text)
    return list(dict.fromkeys(found))[:_MAX_WORDS]


def _names(data: object) -> Iterator[str]:
    """The names of a key in an event's data, in all fields that have one in any event."""
    for path in _KEY_NAMES:
        value = data
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            yield value


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value, at any depth."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            left += [inner for name, inner in part.items() if name not in _UNSEARCHED]
        elif isinstance(part, list):
            left += part
