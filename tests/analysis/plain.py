"""Read a run's files with pandas, safetensors and loops only, independently of cosup."""

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
    """Return the rows of a split, names as strings ("" for null)."""
    table = pd.read_parquet(run / "samples.parquet")
    table = table[table["split"] == split].reset_index(drop=True)
    for column in ("true_label", "domain", "answer"):
        table[column] = [name if isinstance(name, str) else "" for name in table[column]]
    return table


@cache
def decisions(run: Path, number: int) -> list[dict[str, Any]]:
    """Return the decisions of a round as dictionaries."""
    return pd.read_parquet(run / "decisions" / f"round-{number}.parquet").to_dict("records")


def probs(path: Path) -> NDArray[np.float64]:
    """Return the probabilities of a dense table."""
    ratios = np.exp(load_file(path)["logs"].astype(np.float64))
    found: NDArray[np.float64] = ratios / np.maximum(ratios.sum(1, keepdims=True), 1e-300)
    return found


def top(path: Path, names: list[str]) -> tuple[list[str], NDArray[np.float64]]:
    """Return each row's top name ("" for an abstention) and its share of the mass."""
    found = load_file(path)
    labels, confidence = [], []
    for row, values in enumerate(np.exp(found["logs"].astype(np.float64))):
        best = int(values.argmax())
        place = best if "indices" not in found else int(found["indices"][row, best])
        mass = values.sum()
        if "named" in found:
            others = np.unpackbits(found["named"][row]).sum() - np.count_nonzero(values)
            mass += others * np.exp(float(found["rest"][row]))
        labels.append(names[place] if values[best] > 0 else "")
        confidence.append(values[best] / mass if mass else 0.0)
    return labels, np.array(confidence)


@cache
def annotations(run: Path, split: str, teacher: str) -> list[str]:
    """Return a teacher's most probable classes in the order of the shards."""
    names = read(run, "stages/prepared")["classes"]
    files = sorted((run / "annotations" / split / teacher).glob("*.safetensors"))
    return [label for file in files for label in top(file, names)[0]]


def student(run: Path, number: int) -> tuple[list[str], NDArray[np.float64]]:
    """Return the predictions and confidences of a round's student on the test split."""
    answers = read(run, "stages/prepared")["answers"]
    return top(run / "checkpoints" / f"round-{number}" / "test.safetensors", answers)


def control(run: Path, name: str) -> tuple[list[str], NDArray[np.float64]]:
    """Return the predictions and confidences of a control on the test split."""
    answers = read(run, "stages/prepared")["answers"]
    return top(run / "checkpoints" / f"control-{name}.safetensors", answers)


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits) if hits else float("nan")
