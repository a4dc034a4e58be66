"""The recipes of the documentation, as who follows them has them."""

import re
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


def blocks(recipe: str, language: str) -> list[str]:
    """The blocks of code in a recipe that are in this language, in their order."""
    text = (RECIPES / recipe).read_text()
    found = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)
    assert found, f"{recipe} has no {language}"
    return found


def fitted(block: str, places: dict[str, str]) -> str:
    """The block with what everybody has to replace by their own, which has to be in it exactly once."""
    for written, own in places.items():
        assert block.count(written) == 1, f"{written!r} is {block.count(written)} times in\n{block}"
        block = block.replace(written, own)
    return block
