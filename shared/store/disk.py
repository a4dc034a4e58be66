"""Whether a disk has room for what is written next."""

import math
import shutil
from pathlib import Path

ROOM = 16 * 1024 * 1024  # bytes; some must stay free, because a store ends when its disk is full


def free(directory: Path) -> float:
    """The free bytes; NaN if there is no such directory."""
    try:
        return shutil.disk_usage(directory).free
    except FileNotFoundError:
        return math.nan


def shortage(directory: Path) -> str | None:
    """The problem in words; None if enough is free or there is no such directory."""
    left = free(directory)
    if not left < ROOM:
        return None
    return (
        f"The disk of {directory} is full: {left // 1024:,.0f} KiB are free, and {ROOM // 1024:,} KiB are "
        "needed. Make room; Keyledger goes on by itself."
    )
