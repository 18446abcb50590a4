"""Damage a file of a run, and compare what a resumed run makes of it with an undisturbed one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

HOWS = ("cut", "flipped", "removed")
TIMES = {"seconds", "peak_rss_mb", "time", "command", "commit", "check"}
"""Keys whose values may differ from run to run."""
CHANGING = (".lock", "log.txt", "manifest.jsonl", ".cosup-tmp")


def damage(path: Path, how: str) -> None:
    """Cut a file in half, flip bits of a few bytes all over it, or remove it."""
    content = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    elif how == "cut":
        replace(path, content[: len(content) // 2])
    else:
        for place in {len(content) // 5, len(content) // 2, len(content) - 2}:
            content[max(0, place)] ^= 0b100
        replace(path, content)


def replace(path: Path, content: bytes) -> None:
    """Write a file anew: it may be a link to that of another run."""
    path.unlink()
    path.write_bytes(content)


def files_of(run: Path) -> list[str]:
    """Return the files of a run, without its lock and event files (their names differ)."""
    found = (path.relative_to(run).as_posix() for path in sorted(run.rglob("*")) if path.is_file())
    return [name for name in found if name != ".lock"]


def differences(found: Path, expected: Path) -> Iterator[str]:
    """Yield what differs between two runs but for times: files, numbers, tables, weights."""
    names = [set(comparable(run)) for run in (found, expected)]
    yield from sorted(names[0] ^ names[1])
    for name in sorted(names[0] & names[1]):
        if content(found / name) != content(expected / name):
            yield name


def comparable(run: Path) -> list[str]:
    return [
        name
        for name in files_of(run)
        if not name.endswith(CHANGING) and "events.out" not in name and not name.endswith(".html")
    ]


def content(path: Path) -> Any:
    """Return what a file holds, without times."""
    if path.stem == "cost":  # the table of times
        return None
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        return [list(table), table.drop(columns="seconds", errors="ignore").to_csv()]
    if path.suffix == ".safetensors":
        return {
            name: (t.dtype, t.shape, t.reshape(-1).view(torch.uint8).numpy().tobytes())
            for name, t in load_file(path).items()
        }
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        lines = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
        return sorted(json.dumps(line, sort_keys=True) for line in lines)
    return path.read_bytes()


def without_times(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_times(value) for key, value in node.items() if key not in TIMES}
    return [without_times(item) for item in node] if isinstance(node, list) else node
