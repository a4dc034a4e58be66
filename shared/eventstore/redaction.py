"""Keeps API keys out of the ledger, by the marks on the fields of the event classes.

A field without marks is text that a user typed: a key in it is rejected, also one that is spread over several
such fields. A key in a repeated field, an actor or a request is removed.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from shared.errors import InvalidFieldError
from shared.eventstore.payload import ACCOUNT_SUBJECT, Mark, Payload, Payloads, marks
from shared.text import key_detection
from shared.text.key_detection import holds_key, holds_spread_key, refusal

# Never a key, not even an encoded one: keys have capitals.
_PLAIN_NAME = re.compile(r"(?!.*(?:[2-7][0-9a-f]){20})[a-z0-9._-]*")

_A = TypeVar("_A", bound=msgspec.Struct)
_R = TypeVar("_R", bound=msgspec.Struct)


def check_subject(subject: str) -> None:
    """Raises InvalidFieldError if the subject holds a key."""
    _refuse_keys(subject, "email" if subject.startswith(ACCOUNT_SUBJECT) else "subject")


def check_workspace(workspace: str) -> None:
    """Raises InvalidFieldError if the workspace holds a key."""
    if not _PLAIN_NAME.fullmatch(workspace):
        _refuse_keys(workspace, "workspace")


def without_keys(payloads: Payloads, actor: _A, request: _R) -> tuple[Payloads, _A, _R]:
    """The same without keys, ready to be stored. Raises InvalidFieldError."""
    if not _may_hold_key(payloads, actor, request):
        return payloads, actor, request
    return [_checked(payload) for payload in payloads], _removed(actor), _removed(request)


class _Names(NamedTuple):
    """The fields of a class by how a key in them is handled."""

    typed: Sequence[str]
    computed: Sequence[str]
    repeated: Sequence[str]

    @property
    def others(self) -> Sequence[str]:
        return (*self.computed, *self.repeated)


@cache
def _names(payload: type[Payload]) -> _Names:
    fields = marks(payload).items()
    return _Names(
        [name for name, of in fields if not of & {Mark.COMPUTED, Mark.REPEATED}],
        [name for name, of in fields if Mark.COMPUTED in of and Mark.REPEATED not in of],
        [name for name, of in fields if Mark.REPEATED in of],
    )


def _may_hold_key(payloads: Payloads, actor: msgspec.Struct, request: msgspec.Struct) -> bool:
    """A fast check whether any text may hold a key. It reads each text once."""
    texts = [*_texts(actor), *_texts(request)]
    for payload in payloads:
        names = _names(type(payload))
        typed = [text for name in names.typed for text in _texts(getattr(payload, name))]
        if holds_spread_key("\n".join(typed)):
            return True
        texts += typed
        texts += [text for name in names.others for text in _texts(getattr(payload, name))]
    return any(map(holds_key, texts))


def _checked(payload: Payload) -> Payload:
    """The payload without keys in repeated fields. Raises InvalidFieldError."""
    names = _names(type(payload))
    for name in (*names.typed, *names.computed):
        _refuse_keys(getattr(payload, name), name)
    _refuse_keys_across(payload, names.typed)
    repeated = {name: getattr(payload, name) for name in names.repeated}
    changed = {name: _removed(value) for name, value in repeated.items() if _holds_key(value)}
    return msgspec.structs.replace(payload, **changed) if changed else payload


def _refuse_keys(value: object, name: str) -> None:
    """Raises InvalidFieldError, with the name of the innermost field that holds a key."""
    if isinstance(value, msgspec.Struct):
        for inner in value.__struct_fields__:
            _refuse_keys(getattr(value, inner), inner)
    elif text := next(filter(holds_key, _texts(value)), None):
        raise InvalidFieldError(name, refusal(f"The {name.replace('_', ' ')}", text))


def _refuse_keys_across(payload: Payload, names: Sequence[str]) -> None:
    """Raises InvalidFieldError if a key is spread over several of the fields."""
    texts = {name: "\n".join(_texts(getattr(payload, name))) for name in names}
    together = "\n".join(texts.values())
    if holds_spread_key(together):
        longest = max(texts, key=lambda name: len(texts[name]))
        raise InvalidFieldError(longest, refusal(f"The {longest}, together with other fields,", together))


def _texts(value: object) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
        return
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.astuple(value)
    elif isinstance(value, dict):
        value = (*value, *value.values())
    if isinstance(value, tuple):
        for inner in value:
            yield from _texts(inner)


def _holds_key(value: object) -> bool:
    return any(map(holds_key, _texts(value)))


def _removed(value: Any) -> Any:
    """The value without keys."""
    if isinstance(value, str):
        return key_detection.without_keys(value)
    if isinstance(value, tuple):
        return tuple(map(_removed, value))
    if isinstance(value, dict):
        return {_removed(name): _removed(inner) for name, inner in value.items()}
    if isinstance(value, msgspec.Struct) and _holds_key(value):
        return msgspec.structs.replace(
            value, **{name: _removed(getattr(value, name)) for name in value.__struct_fields__}
        )
    return value
