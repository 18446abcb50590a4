"""What a run took, stage by stage, and its training scalars."""

import re

import numpy as np
import pandas as pd

from cosup.analysis.base import Absent
from cosup.analysis.reading import read_json
from cosup.analysis.records import Run

PREPARING = ("data", "features", "teachers", "annotate")
CHOICE = "choose-loss"
TAG = re.compile(r"round_(\d+)/(.+)")


def weights_table(run: Run) -> pd.DataFrame:
    """round, step, name, value: what the student's training recorded in each round; among it the
    loss and, for a loss that has one, the mean weight of the student's own class
    (`adaptive_weight`) and how often teacher and student name the same class (`agreement`).
    """
    scalars = run.scalars
    parts = scalars["tag"].str.extract(TAG)
    chosen = parts[0].notna()
    if not chosen.any():
        raise Absent("no training of a student has recorded anything")
    names = list(parts[1][chosen].unique())
    table = pd.DataFrame(
        {
            "round": parts[0][chosen].astype("int64"),
            "step": scalars["step"][chosen],
            "name": pd.Categorical(parts[1][chosen], categories=names),
            "value": scalars["value"][chosen],
        }
    )
    return table.sort_values(["round", "name", "step"], kind="stable").reset_index(drop=True)


def cost_table(run: Run) -> pd.DataFrame:
    """A row per finished stage.

    stage, part (data, features, teachers, annotate, rounds, controls), seconds, share (of all),
    images, images_per_second. Images are: of data, those that were listed and checked; of features,
    those read or found in the cache; of teachers, those seen in training, step by step; of
    annotate, annotations (an image counts for each teacher); of rounds and controls, the samples of
    student_train, once. Null where it isn't known. Memory: `run.summary["peak_rss_mb"]`.
    """
    rows = [
        {"stage": _words(stage), "part": part, "seconds": seconds, "images": images}
        for stage, part, seconds, images in _stages(run)
    ]
    if not rows:
        raise Absent("no stage is finished")
    table = pd.DataFrame(rows)
    parts = [*PREPARING, "rounds", "controls"]
    table["part"] = pd.Categorical(table["part"], categories=parts)
    table["images"] = table["images"].astype("Int64")
    table.insert(3, "share", table["seconds"] / table["seconds"].sum())
    seconds = table["seconds"].where(table["seconds"] > 0)
    table["images_per_second"] = table["images"].astype("Float64").astype("float64") / seconds
    return table


def _stages(run: Run) -> list[tuple[str, str, float, int | None]]:
    order = [
        *PREPARING,
        CHOICE,
        *(f"round-{number}" for number in run.rounds),
        *(f"control-{name}" for name in run.controls),
    ]
    found = []
    for stage in (stage for stage in order if "seconds" in run.stages.get(stage, {})):
        part = _part(stage)
        found.append((stage, part, float(run.stages[stage]["seconds"]), _images(run, part)))
    return found


def _part(stage: str) -> str:
    if stage in PREPARING:
        return stage
    return "controls" if stage.startswith("control-") else "rounds"


def _words(stage: str) -> str:
    return stage.replace("-", " ", 1)


def _images(run: Run, part: str) -> int | None:
    """How many images a stage of this part works through."""
    sizes = run.prepared.get("samples")
    if part == "teachers":
        return _trained(run)
    if part == "annotate":
        return _annotations(run)
    if sizes is None:
        return None
    if part == "data":
        return int(sum(sizes.values()))
    if part == "features":
        return int(run.prepared["features"]) or None
    return int(sizes["student_train"])


def _trained(run: Run) -> int | None:
    batch = run.config["teachers"]["training"]["batch_size"]
    files = (run.path / "teachers").glob("[!.]*.json")
    steps = sum(int(read_json(file)["steps"]) for file in files)
    return steps * int(batch) if steps else None


def _annotations(run: Run) -> int | None:
    path = run.path / "annotations" / "manifest.json"
    if not path.is_file():
        return None
    entries = [entry for split in read_json(path).values() for entry in split.values()]
    return int(np.sum([entry["samples"] for entry in entries])) if entries else None
