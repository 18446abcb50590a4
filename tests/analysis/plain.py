"""A run's files read by plain means: pandas, safetensors' NumPy, loops. Nothing of cosup."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file


def read(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / f"{name}.json").read_text())


def samples(run: Path, split: str) -> pd.DataFrame:
    """Rows of a split, names as plain strings ("" where null)."""
    table = pd.read_parquet(run / "samples.parquet")
    table = table[table["split"] == split].reset_index(drop=True)
    for column in ("true_label", "domain", "answer"):
        table[column] = [name if isinstance(name, str) else "" for name in table[column]]
    return table


@cache
def decisions(run: Path, number: int) -> list[dict[str, Any]]:
    """A round's rows."""
    return pd.read_parquet(run / "decisions" / f"round-{number}.parquet").to_dict("records")


def top(path: Path, names: list[str]) -> tuple[list[str], NDArray[np.float64]]:
    """Each row's most probable name ("" for an abstention) and its share of the row's mass."""
    found = load_file(path)
    labels, confidence = [], []
    for row, values in enumerate(found["values"].astype(np.float64)):
        best = int(values.argmax())
        place = best if "indices" not in found else int(found["indices"][row, best])
        mass = values.sum() + (float(found["rest"][row]) if "rest" in found else 0.0)
        labels.append(names[place] if values[best] > 0 else "")
        confidence.append(values[best] / mass if mass else 0.0)
    return labels, np.array(confidence)


@cache
def annotations(run: Path, split: str, teacher: str) -> list[str]:
    """A teacher's most probable classes, shard after shard."""
    names = read(run, "stages/prepared")["classes"]
    files = sorted((run / "annotations" / split / teacher).glob("*.safetensors"))
    return [label for file in files for label in top(file, names)[0]]


def student(run: Path, number: int) -> tuple[list[str], NDArray[np.float64]]:
    """The student of a round on what measures."""
    answers = read(run, "stages/prepared")["answers"]
    return top(run / "checkpoints" / f"round-{number}" / "test.safetensors", answers)


def control(run: Path, name: str) -> tuple[list[str], NDArray[np.float64]]:
    """A control on what measures."""
    answers = read(run, "stages/prepared")["answers"]
    return top(run / "checkpoints" / f"control-{name}.safetensors", answers)


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits) if hits else float("nan")
