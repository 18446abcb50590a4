"""`metrics.jsonl`: the scalars of a run over steps, a line each."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from cosup.files import disk_errors, write_atomic

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Scalar:
    """One number: what it is, at which step, and when it was recorded (Unix seconds)."""

    tag: str
    value: float
    step: int
    time: float


class Writer(Protocol):
    """Takes scalars; `close` makes them durable."""

    def write(self, scalar: Scalar) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """A JSON object per line, flushed line by line; a value that isn't finite is null."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, scalar: Scalar) -> None:
        line = asdict(scalar)
        if not math.isfinite(scalar.value):
            line["value"] = None
        with disk_errors(self.path):
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        with disk_errors(self.path):
            self._file.close()


def earlier_scalars(path: Path) -> list[Scalar]:
    """The scalars of an earlier process; a line that was cut by a kill is removed."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()
    scalars = []
    for line in lines:
        item = json.loads(line)
        value = math.nan if item["value"] is None else item["value"]
        scalars.append(Scalar(item["tag"], value, item["step"], item["time"]))
    if torn:
        write_atomic(path, b"".join(line + b"\n" for line in lines))
    return scalars
