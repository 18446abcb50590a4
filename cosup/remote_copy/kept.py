"""The record of the files of a copy, as they were fetched."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cosup.files import write_json

__all__ = ["Kept", "Mark", "read_record", "write_record"]

Mark = tuple[int, str]
"""Size and digest of the newest entry of a file in its manifest."""


@dataclass(frozen=True)
class Kept:
    """A file of the copy as it was fetched. mark: None for a file that no manifest lists."""

    size: int
    changed: int | None
    mark: Mark | None


def read_record(file: Path) -> dict[str, Kept]:
    """Return what an earlier process has fetched, by name; {} where that is not known."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(file.read_text())["kept"]
        return {
            name: Kept(size, changed, None if mark is None else (int(mark[0]), str(mark[1])))
            for name, (size, changed, mark) in found.items()
        }
    return {}


def write_record(file: Path, uri: str, kept: Mapping[str, Kept]) -> None:
    """Record what is fetched. uri: without secrets, for people."""
    found = {name: (one.size, one.changed, one.mark) for name, one in kept.items()}
    write_json(file, {"uri": uri, "kept": found})
