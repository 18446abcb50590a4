"""A sharded run that uses much at once: tables beside teachers, a student that guides the first
round, labels of student_train, and several losses."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cosup.config.schema import Config
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config
from helpers.tiny_clip import write_clip

ROWS, LABELLED = 420, 240
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LOSSES = ("cross_entropy", "adaptive_confidence")


def write_guided(folder: Path) -> None:
    """Write a manifest of digits, the answers of an annotator, and a tiny CLIP."""
    labels = write_digits(folder / "images", 200)
    write_manifest(folder / "rows", labels, ROWS, LABELLED, files=2, truth=True)
    rows = np.arange(ROWS)[np.arange(ROWS) % 5 > 0]
    said = np.where(rows % 3 > 0, labels[rows % len(labels)], rows % 10)
    ids = [f"sample-{row:07d}" for row in rows]
    pd.DataFrame({"task": ids, "label": said}).to_csv(folder / "ann.csv", index=False)
    write_clip(folder / "clip")


def guided_config(folder: Path, **sections: Any) -> Config:
    """Return the config; its losses are those of `LOSSES`. sections: more keys of sections."""
    rounds, execution = sections.pop("rounds", {}), sections.pop("execution", {})
    return sharded_config(
        folder / "rows",
        teachers={
            "hierarchy": {"by": "class", "levels": [2]},
            "external": [
                {"name": "ann", "annotations": str(folder / "ann.csv"), "missing": "abstain"}
            ],
        },
        student={
            "backbone": {"name": f"open_clip:{folder / 'clip'}"},
            "head": {"kind": "prototype", "init": "text", "class_names": NAMES},
        },
        rounds={
            "assignment": "fused",
            "consistency": [{"name": "teacher_student", "mode": "mask", "k": 3}],
            "first_guide": "student",
            "losses": list(LOSSES),
            "true_label_weight": 0.5,
            "repeat": 1,
            **rounds,
        },
        controls=["self_training"],
        execution={"shard_size": 60, **execution},
        **sections,
    )


def numbers_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a summary that does not depend on where and when a run was made."""
    found = {k: v for k, v in summary.items() if k not in ("seconds", "peak_rss_mb", "run")}
    losses = {name: numbers_of(one) for name, one in found.get("losses", {}).items()}
    return found | ({"losses": losses} if losses else {})


def shards_of(run: Path) -> dict[str, bytes]:
    """Return the content of every file of shards, of the run or of its losses and seeds."""
    files = {path.relative_to(run): path for path in run.rglob("*.parquet")}
    return {str(name): path.read_bytes() for name, path in files.items() if "shards" in name.parts}
