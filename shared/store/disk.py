"""Whether a disk has room for what is written next."""

import math
import shutil
from pathlib import Path

ROOM = 16 * 1024 * 1024  # bytes; a store that meets a full disk ends at once, so there is to be some left


def free(directory: Path) -> float:
    """The bytes that are free there; NaN, if there is no such directory."""
    try:
        return shutil.disk_usage(directory).free
    except FileNotFoundError:
        return math.nan


def shortage(directory: Path) -> str | None:
    """What is wrong, in words; None where there is room enough, and where there is no such directory."""
    left = free(directory)
    if not left < ROOM:
        return None
    return (
        f"The disk of {directory} is full: {left // 1024:,.0f} KiB are free, and {ROOM // 1024:,} KiB are "
        "needed. Make room; Keyledger goes on by itself."
    )
