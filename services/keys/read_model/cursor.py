"""Where a page of the list ended, as callers get it and send it back. Pure."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple, cast

from services.keys.model.key import STATUSES
from services.keys.read_model.criteria import Sort

NO_CURSOR = "Use next_cursor of the previous page, with the same sort."
_MEMBER = "(?:[0-9A-Za-z_-]{4}){0,500}(?:[0-9A-Za-z_-]{2,3})?"
_STATUSES = "|".join(STATUSES)
PATTERN = rf"^(-?(?:created_at|name|hint)|-?status\.(?:{_STATUSES}))\.({_MEMBER})$"


class CursorError(ValueError):
    """It is no cursor of a list in this order."""


class Cursor(NamedTuple):
    """The order, the part of it where the list is (a status, if it goes by status), and the member of the
    index behind which it goes on.
    """

    sort: Sort
    member: bytes
    status: str = ""

    def __str__(self) -> str:
        head = f"{self.sort}.{self.status}" if self.status else self.sort
        return f"{head}.{urlsafe_b64encode(self.member).decode().rstrip('=')}"


def parse_cursor(text: str) -> Cursor:
    """The inverse of str(). Raises CursorError."""
    found = re.fullmatch(PATTERN, text)
    if found is None:
        raise CursorError(NO_CURSOR)
    sort, _, status = found[1].partition(".")
    return Cursor(cast("Sort", sort), urlsafe_b64decode(found[2] + "=" * (-len(found[2]) % 4)), status)
