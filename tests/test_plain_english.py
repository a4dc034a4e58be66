"""Texts that users read have none of the words that make them sound translated, nor names from the past."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import click
import pytest

from tests.documents import DOCUMENTS, ROOT, commands, prose
from tests.support.application import application

# What not to write, as a regular expression without regard to case, and what to write instead.
AVOIDED = {
    r"anew": "again, from scratch",
    r"mend(s|ed|ing)?": "fix",
    r"whoever": "the caller, the user",
    r"for good": "permanently",
    r"(comes?|came) to be": "is created",
    r"tell(s|ing)?|told": "report, return, record",
    r"(is|are|was|were) away": "unavailable",
    r"puts? back": "restore",
    r"(takes?|took|taken|taking) up(?! to)": "handle",
    r"beside": "next to, compared with",
    r"at most": "up to, maximum",
    r"(no|is|are|stays?) good": "valid, invalid",
    r"switch(es|ed|ing)? off": "disable",
    r"people|persons?": "account, user",
    r"moments?(?<!at the moment)(?<!in a moment)": "point in time",
    r"(is|are|not|un)\W?sound": "intact",
    r"lanes?": "fast path",
    r"standings?": "cached key, status",
    r"inquir(y|ies)": "forensics",
    r"somebody": "someone, the caller",
    r"so already": "the current status",
    r"blanks": "spaces",
}


def template_texts() -> Iterator[tuple[str, str]]:
    """Yields each line of each template, without code."""
    for folder in ("services", "shared"):
        for path in sorted((ROOT / folder).glob("**/templates/**/*.html")):
            text = re.sub(r"(?s)\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}|<[^>]*>", _blank, path.read_text())
            for number, line in enumerate(text.splitlines(), 1):
                yield f"{path.relative_to(ROOT)}:{number}", line


def script_texts() -> Iterator[tuple[str, str]]:
    """Yields each line of each script."""
    for path in sorted((ROOT / "shared/web/static").glob("*.js")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def document_texts() -> Iterator[tuple[str, str]]:
    """Yields each line of each document, without code."""
    for path in DOCUMENTS:
        for line in re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose(path)).splitlines():
            yield str(path.relative_to(ROOT)), line


def api_texts() -> Iterator[tuple[str, str]]:
    """Yields each description, summary and example of the OpenAPI document."""
    document = application().test_client().get("/openapi.json").get_json()
    yield from _described(document, "openapi.json")


def command_texts() -> Iterator[tuple[str, str]]:
    """Yields the help of each command."""
    for name, command in commands():
        yield name, command.get_help(click.Context(command, info_name=name))


def _blank(code: re.Match[str]) -> str:
    return "\n" * code[0].count("\n")


def _described(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, inner in node.items():
            if isinstance(inner, str) and name in {"summary", "description", "title", "detail", "message"}:
                yield f"{path}/{name}", inner
            else:
                yield from _described(inner, f"{path}/{name}")
    elif isinstance(node, list):
        yield from chain.from_iterable(_described(inner, path) for inner in node)


@pytest.mark.parametrize(
    "texts",
    [template_texts, script_texts, document_texts, api_texts, command_texts],
    ids=lambda each: each.__name__,
)
def test_no_text_uses_a_word_to_avoid(texts: Any) -> None:
    read = list(texts())
    assert len(read) > 20
    found = [
        f"{place}: “{match[0]}” in “{text.strip()}”: write {instead!r}"
        for place, text in read
        for avoided, instead in AVOIDED.items()
        for match in re.finditer(rf"(?i)\b(?:{avoided})\b", text)
    ]
    assert not found, "\n".join(found)


def test_a_word_to_avoid_is_found() -> None:
    assert all(re.compile(avoided) for avoided in AVOIDED)
    assert re.search(rf"(?i)\b(?:{'|'.join(AVOIDED)})\b", "Tell people that it stays good for the moment.")
