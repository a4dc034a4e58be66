"""What the index of a workspace's keys holds of a row. Pure.

Each kind is a sorted set in lexical order, whose members end with the place of their key: when it was
created, and its id. `enabled`, `inactive` and `revoked` part the keys by what is stored of their status, and
have nothing but places; so does `expires`, in the order in which the enabled ones end. The others have a text
before the place: `names` and `hints` a whole one, and `words` each word of the name but the first, which is
what its member of `names` begins with.
"""

from typing import TypeAlias

from services.keys.model.key import Key
from services.keys.read_model.words import words

STATES = ("enabled", "inactive", "revoked")
WORDS = ("names", "words")  # where the words of names are
_TIME = 10  # hexadecimal digits of a position: enough for more events than a store holds
_END = "\t"  # of a text: below all that a word is made of, and a blank, so that shorter texts come first
_END_BYTE = _END.encode()
_ABOVE = b"\xff"  # no text has it, for it is in no UTF-8

Held: TypeAlias = tuple[str, str, int]  # kind, member, score


def moves(before: Key | None, after: Key) -> tuple[list[Held], list[Held]]:
    """What goes out of the index and what comes in when a row changes; there may have been none before."""
    place = _place(after)
    new = _of_status(after, place)
    if before is None:
        return [], new + _of_texts(after, place)
    old = _of_status(before, place)
    if before.name != after.name or before.hint != after.hint:
        old, new = old + _of_texts(before, place), new + _of_texts(after, place)
    return [held for held in old if held not in new], [held for held in new if held not in old]


def member_of(kind: str, key: Key) -> bytes:
    """What `names` or `hints` hold of a key."""
    text = key.hint if kind == "hints" else " ".join(words(key.name))
    return f"{text}{_END}{_place(key)}".encode()


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


def _of_status(key: Key, place: str) -> list[Held]:
    if key.revoked:
        return [("revoked", place, 0)]
    if not key.enabled:
        return [("inactive", place, 0)]
    if key.expires_at is None:
        return [("enabled", place, 0)]
    return [("enabled", place, 0), ("expires", place, key.expires_at)]


def _of_texts(key: Key, place: str) -> list[Held]:
    found = words(key.name) or [""]
    end = _END + place
    texts: list[Held] = [("names", " ".join(found) + end, 0), ("hints", key.hint + end, 0)]
    texts += [("words", word + end, 0) for word in found[1:] if word != found[0]]
    return texts


def _place(key: Key) -> str:
    return f"{key.created_position:0{_TIME}x}{key.id}"
