"""What the index of a workspace's keys holds of a row. Pure.

Each kind is a sorted set in lexical order, whose members end with the place of their key: when it was
created, and its id. `enabled`, `inactive` and `revoked` part the keys by what is stored of their status, and
have nothing but places; so does `expires`, in the order in which the enabled ones end. The others have a text
before the place: `names` and `hints` a whole one, and `words` each word of the name but the first, which is
what its member of `names` begins with.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from services.keys.domain import Key
from services.keys.words import words

STATES = ("enabled", "inactive", "revoked")
WORDS = ("names", "words")  # where the words of names are
_TIME = 10  # hexadecimal digits of a position: enough for more events than a store holds
_END = "\t"  # of a text: below all that a word is made of, and a blank, so that shorter texts come first
_END_BYTE = _END.encode()
_ABOVE = b"\xff"  # no text has it, for it is in no UTF-8

Held: TypeAlias = Mapping[tuple[str, str], int]  # kind and member -> score


def moves(before: Key | None, after: Key) -> tuple[Iterable[tuple[str, str]], Held]:
    """What goes out of the index and what comes in when a row changes; there may have been none before."""
    if before is None:
        return (), {**_of_status(after), **_of_texts(after)}
    old, new = _of_status(before), _of_status(after)
    if (before.name, before.hint) != (after.name, after.hint):
        old, new = {**old, **_of_texts(before)}, {**new, **_of_texts(after)}
    return old.keys() - new.keys(), {place: score for place, score in new.items() if old.get(place) != score}


def member_of(kind: str, key: Key) -> bytes:
    """What `names` or `hints` hold of a key."""
    return _member(key.hint if kind == "hints" else " ".join(words(key.name)), key).encode()


def place(key: Key) -> bytes:
    """The place of a key."""
    return _place(key).encode()


def place_of(member: bytes) -> bytes:
    """The place of the key that a member is of."""
    return member[member.rfind(_END_BYTE) + 1 :]


def id_of(member: bytes) -> str:
    """The id of the key that a member is of."""
    return place_of(member)[_TIME:].decode()


def between(beginning: str) -> tuple[bytes, bytes]:
    """The lexical range of all that begins so."""
    start = beginning.encode()
    return b"[" + start, b"(" + start + _ABOVE


def _of_status(key: Key) -> dict[tuple[str, str], int]:
    place = _place(key)
    if key.revoked:
        return {("revoked", place): 0}
    if not key.enabled:
        return {("inactive", place): 0}
    if key.expires_at is None:
        return {("enabled", place): 0}
    return {("enabled", place): 0, ("expires", place): key.expires_at}


def _of_texts(key: Key) -> dict[tuple[str, str], int]:
    first, *others = words(key.name) or [""]
    members = {("words", _member(word, key)): 0 for word in others if word != first}
    members["names", _member(" ".join([first, *others]), key)] = 0
    members["hints", _member(key.hint, key)] = 0
    return members


def _place(key: Key) -> str:
    return f"{key.created_position:0{_TIME}x}{key.id}"


def _member(text: str, key: Key) -> str:
    return f"{text}{_END}{_place(key)}"
