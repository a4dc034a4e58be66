"""The forms for keys: converts their fields for the schemas, and lists the rules that the browser checks."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

from marshmallow import Schema, fields

from services.keys.model.key import Key
from services.keys.web.fields import DESCRIPTION_LENGTH, NAME_LENGTH
from services.keys.web.schemas import NewKeySchema, RevocationSchema
from shared.clock import rfc3339, typed_in_utc
from shared.identity import OWN_PREFIX


def texts_of(key: Key) -> dict[str, str]:
    """A key's details as text for the fields of a form."""
    return {
        "name": key.name,
        "description": key.description,
        "scopes": "\n".join(key.scopes),
        "expires_at": "" if key.expires_at is None else rfc3339(key.expires_at).removesuffix("Z"),
    }


def typed_in(form: Mapping[str, str], otherwise: Mapping[str, str] | None = None) -> dict[str, str]:
    """The fields of a form, with LF line breaks; fields that weren't sent come from `otherwise`."""
    left = otherwise or {}
    return {name: form.get(name, left.get(name, "")).replace("\r\n", "\n") for name in _READ}


def read(texts: Mapping[str, str]) -> dict[str, object]:
    """The fields of a form as the schemas expect them."""
    return {name: _READ[name](text) for name, text in texts.items()}


def utc(text: str) -> str | None:
    """RFC 3339 for the value of a datetime-local field; None if it is empty."""
    return typed_in_utc(text) or None


_READ: Mapping[str, Callable[[str], object]] = {
    "name": str,
    "description": str,
    "scopes": str.split,
    "expires_at": utc,
}


@cache
def rules() -> Mapping[str, Mapping[str, Any]]:
    """The rules that the browser checks before it sends a form, with the messages of the schemas."""
    new, revocation = NewKeySchema(), RevocationSchema()
    return {
        "name": {
            "empty": _message(new, "name", ""),
            "most": NAME_LENGTH,
            "long": _message(new, "name", "n" * (NAME_LENGTH + 1)),
        },
        "description": {
            "most": DESCRIPTION_LENGTH,
            "long": _message(new, "description", "d" * (DESCRIPTION_LENGTH + 1)),
        },
        "expires_at": {
            "unfinished": "Finish the date and the time, or clear the field.",  # what the server never sees
            "past": _message(new, "expires_at", "1970-01-01T00:00:00Z"),
        },
        "scopes": {
            "good": cast("fields.List[str]", new.fields["scopes"]).inner.metadata["pattern"],
            "own": OWN_PREFIX,  # those the server alone tells apart
            "bad": _message(new, "scopes", ["?"]).replace("?", "{}", 1),
        },
        "reason": {
            "most": DESCRIPTION_LENGTH,
            "long": _message(revocation, "reason", "r" * (DESCRIPTION_LENGTH + 1)),
        },
    }


def _message(schema: Schema, field: str, bad: object) -> str:
    message: str = schema.validate({field: bad})[field][0]
    return message
