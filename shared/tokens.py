"""What a key looks like, wherever somebody may have typed one: ours, or another service's. Pure."""

import re

# A run of letters and digits that is longer than what people type, and than an id or a date.
_LONG = re.compile(r"[0-9A-Za-z]{26}")
_PREFIXED = re.compile(r"[0-9A-Za-z]_[0-9A-Za-z]{40}")


def resembles_key(text: str) -> bool:
    """Whether a text may hold a key or most of one, and so must come into no address and no answer."""
    return _LONG.search(text) is not None


def holds_key(text: str) -> bool:
    """Whether a text holds a key, or one that lost an end, and so must not be kept."""
    return _PREFIXED.search(text) is not None
