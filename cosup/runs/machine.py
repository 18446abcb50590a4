"""How much memory and disk this process may use."""

import os
import shutil
from pathlib import Path

__all__ = ["free_disk", "usable_memory"]

CONTROL_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may use (versions 2 and 1 of control groups)."""


def usable_memory() -> int | None:
    """Return the bytes of memory, or the limit of the container; None where neither is known."""
    found = [limit for limit in map(_limit, CONTROL_GROUPS) if limit is not None]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def free_disk(path: Path) -> int:
    """Return the free bytes of the disk of a path, which need not exist yet."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _limit(file: str) -> int | None:
    try:
        text = Path(file).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
