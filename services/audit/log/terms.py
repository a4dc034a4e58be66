"""By which terms an entry is found. Pure.

A term is a word of what the event tells, or one of a filter: its kind, `=`, and a hash of the whole value,
or a word of a key's name. No word has `=` in it, so nobody can write one into a text that passes for another.
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

TERMS_VERSION = 2  # raise it when `terms_of` or a filter changes: each index is then filled again
_HASH_BYTES = 10
_LONGEST = 64  # characters of a word; what is longer is cut, here and where it is sought
_MOST = 1_000  # words of an event
_MOST_SOUGHT = 64  # words of a question: what has all of them is hardly another text
_UNSEARCHED = frozenset(name for form in FORMS for name, of in marks(form).items() if Mark.UNSEARCHED in of)
_KEY_NAMES = frozenset(path for form in FORMS for path in key_name_paths(form))

Wanted: TypeAlias = tuple[tuple[str, ...], ...]  # of each of these one at least


def terms_of(record: Record) -> set[str]:
    """All terms of an event; none of one that is no JSON object."""
    event = parse_event(record)
    return _filter_terms(event).union(_words_of(event.fields))


def has_terms(event: AuditEvent, wanted: Wanted) -> bool:
    """Whether an event has the terms, as an intact index answers. Raises nothing."""
    terms = _filter_terms(event)
    if any(terms.isdisjoint(each) for each in wanted if _is_filter(each)):
        return False
    # Words are looked at last: they cost most.
    sought = [each for each in wanted if not _is_filter(each)]
    if not sought or event.stored is None or not _may_have_words(event.stored.body, sought):
        return not sought
    terms.update(_words_of(event.fields))
    return not any(terms.isdisjoint(each) for each in sought)


def _may_have_words(body: bytes, sought: Iterable[tuple[str, ...]]) -> bool:
    """False if an event can't have the words, as its bytes show where no character is folded or escaped."""
    if not body.isascii() or b"\\u" in body:
        return True
    text = body.lower()
    return all(any(word.encode() in text for word in each) for each in sought)


def _is_filter(terms: tuple[str, ...]) -> bool:
    return all("=" in term for term in terms)


def _filter_terms(event: AuditEvent) -> set[str]:
    """The terms that aren't words of the text."""
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
    """The term of a filter that compares a whole value."""
    return f"{kind}={hashlib.blake2b(value.encode(), digest_size=_HASH_BYTES).hexdigest()}"


def terms_involving(actor_id: str) -> tuple[str, ...]:
    """What any event has that somebody did, or that was done to them; a key is somebody, too."""
    sign_ins = SIGN_IN_SUBJECT + actor_id.removeprefix(ACCOUNT_SUBJECT)
    subjects = (actor_id, KEY_SUBJECT + actor_id, sign_ins)
    return term_of("actor", actor_id), *(term_of("subject", subject) for subject in subjects)


@lru_cache(4_096)
def terms_from(ip: str) -> tuple[str, ...]:
    """An IP address by its canonical form and, for entries from before there was one, as it is spelled."""
    return tuple(term_of("address", spelling) for spelling in {canonical_ip(ip) or ip, ip})


def terms_by(actor: str) -> tuple[str, ...]:
    """An actor by its id or label: of a person an e-mail address, of an anonymous one an IP address."""
    prefix = ACCOUNT_SUBJECT if actor.startswith(ACCOUNT_SUBJECT) else ""
    emails = {prefix + email for email in spellings(actor.removeprefix(prefix))} if "@" in actor else set()
    names = emails | {actor, canonical_ip(actor) or actor}
    return tuple(term_of(kind, name) for kind in ("actor", "label") for name in names)


def words_sought(text: str) -> Wanted:
    """Each word of a text; what nothing has, of a text without words."""
    return tuple((word,) for word in _sought(text)) or ((),)


def words_of_name(text: str) -> Wanted:
    """The same, in the name of a key."""
    return tuple((f"name={word}",) for word in _sought(text)) or ((),)


def _sought(text: str) -> list[str]:
    return list(dict.fromkeys(word[:_LONGEST] for word in words.words_sought(text)))[:_MOST_SOUGHT]


def _words(text: str) -> list[str]:
    found = words.words(text)
    return [word[:_LONGEST] for word in (found if text.isascii() else words.with_characters(found))]


def _words_of(stored: Mapping[str, Any]) -> list[str]:
    """Those of all texts, each once. One that is not plain goes by itself: it would slow all down."""
    texts = [*_texts(stored)]
    found = _words(" ".join(text for text in texts if text.isascii()))
    for text in texts:
        if not text.isascii():
            found += _words(text)
    return list(dict.fromkeys(found))[:_MOST]


def _names(data: object) -> Iterator[str]:
    """The names of a key in the data of an event, where any event class has one."""
    for path in _KEY_NAMES:
        value = data
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            yield value


def _texts(value: object) -> Iterator[str]:
    """All texts in a value of JSON, however deep."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            left += [inner for name, inner in part.items() if name not in _UNSEARCHED]
        elif isinstance(part, list):
            left += part
