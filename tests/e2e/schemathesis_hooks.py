"""Adjusts valid requests where the schema can't: rules that depend on time or on earlier requests."""

import os
import re
from itertools import count
from typing import Any

import schemathesis
from schemathesis import GenerationMode

from shared.text.characters import is_visible, refused_character

_CALLER = os.environ.get("KEYLEDGER_CALLER_ID", "")
_NOBODY = "000000000000"
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt]")
_sent = count()


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Protects the caller's own key, and completes valid requests."""
    if _CALLER and _CALLER in str((case.path_parameters or {}).get("key_id", "")):
        case.path_parameters["key_id"] = _NOBODY
    _ask_for_what_has_been(case.headers, "X-Ledger-Position")
    _ask_for_what_has_been(case.query, "after")
    if case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE:
        _name_anew(case.headers)
        _end_in_the_future(case.body)
        _write_visibly(case.body)
        _write_visibly(case.query)
        _sort_as_the_cursor(case.query)


def _ask_for_what_has_been(holder: Any, name: str) -> None:
    """A response can't include a position that doesn't exist yet."""
    if holder and re.fullmatch(r"[0-9]+", str(holder.get(name, ""))):
        holder[name] = "1"


def _name_anew(headers: Any) -> None:
    """A reused Idempotency-Key and an outdated version in If-Match are refused."""
    number = next(_sent)
    if headers and "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = f"{headers['Idempotency-Key'][:200]}-{number}"
    if headers and "If-Match" in headers:  # of which it makes some that the pattern doesn't match
        headers["If-Match"] = "*" if number % 4 else '"1"'


def _end_in_the_future(body: Any) -> None:
    if isinstance(body, dict) and _DATE.match(str(body.get("expires_at", ""))):
        body["expires_at"] = "2999-01-01T00:00:00Z"


def _write_visibly(holder: Any) -> None:
    """Whether a character is visible depends on its neighbours, which a pattern can't express."""
    for name in ("name", "description", "reason"):
        if isinstance(holder, dict) and isinstance(text := holder.get(name), str):
            shown = "".join(each for each in text if refused_character(each, lines=True) is None)
            holder[name] = shown if is_visible(shown) or not text.strip() else shown[:99] + "n"


def _sort_as_the_cursor(query: Any) -> None:
    """A cursor belongs to its sort order, and a point in time must not be in the future."""
    if query and "." in str(query.get("cursor", "")):
        query["sort"] = query["cursor"].partition(".")[0]
    if query and "at" in query:
        query["at"] = "1"


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Unknown headers are ignored, so they are never refused."""
    return "x-schemathesis-unknown-property" not in (case.headers or {})
