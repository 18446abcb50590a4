"""Reading a run's files: what is damaged is a `RunError` that names the file."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cosup.errors import RunError, UserError
from cosup.probabilities import ProbTable

__all__ = ["read_json", "read_lines", "read_parquet", "read_probs"]


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _damaged(path, "not an object")
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one per line; a last line without its end is being written."""
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def read_parquet(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """A Parquet file that must have these columns, at least."""
    try:
        table = pd.read_parquet(path)
    except PermissionError:
        raise UserError(f"{path}: not readable (permission denied)") from None
    except Exception as error:  # pyarrow raises its own, OSError, ValueError, UnicodeDecodeError
        raise _damaged(path, error) from error
    lacking = [name for name in columns if name not in table.columns]
    if lacking:
        raise _damaged(path, f"no column {', '.join(lacking)}")
    return table


def read_probs(paths: Iterable[Path], num_classes: int, samples: int, where: Path) -> ProbTable:
    """The rows of these files, one after another, which must be so many samples.

    where: what a message names if their number is wrong.
    """
    parts = []
    for path in paths:
        try:
            part = ProbTable.from_tensors(num_classes, load_file(path))
            _check(part)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise _damaged(path, error) from error
        parts.append(part)
    found = sum(len(part) for part in parts)
    if found != samples:
        raise _damaged(where, f"{found} samples, not {samples}")
    return ProbTable.concat(parts) if parts else ProbTable.compress(torch.zeros(0, num_classes))


def _check(part: ProbTable) -> None:
    """Whether the numbers can be what they are taken for."""
    if part.values.ndim != 2 or not part.values.is_floating_point():
        raise ValueError("not probabilities")
    if part.indices is None and part.values.shape[1] != part.num_classes:
        raise ValueError(f"{part.values.shape[1]} classes, not {part.num_classes}")
    if not math.isfinite(float(part.values.sum(dtype=torch.float64))):
        raise ValueError("probabilities that are no numbers")


def _damaged(path: Path, reason: object) -> RunError:
    said = " ".join(str(reason).split()) or type(reason).__name__
    if isinstance(reason, FileNotFoundError):
        said = "the file is gone"
    return RunError(f"{path} is damaged or incomplete: {said[:200]}")
