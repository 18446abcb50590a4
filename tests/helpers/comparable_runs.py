"""Write minimal run directories with given answers, for tests of comparisons."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray

from cosup.files import save_tensors, write_json
from cosup.layout import MARKER
from cosup.probabilities import ProbTable

CLASSES = ("cat", "dog", "eel")
DOMAINS = ("photo", "sketch")


@dataclass(frozen=True)
class RunAnswers:
    """Answers of a run's student, floor and ceiling on M test samples, and the true classes.

    Arrays are class indices [M], -1 for an abstention. `ceiling` is None without that control.
    """

    truth: NDArray[np.int64]
    student: NDArray[np.int64]
    floor: NDArray[np.int64]
    ceiling: NDArray[np.int64] | None
    group: NDArray[np.int64]
    ids: Sequence[str]
    classes: Sequence[str] = CLASSES
    domains: Sequence[str] = DOMAINS
    config: dict[str, Any] = field(default_factory=dict)
    scalars: Sequence[tuple[str, int, float | None]] = ()
    environment: dict[str, Any] = field(default_factory=dict)

    def select(self, order: NDArray[np.int64]) -> "RunAnswers":
        """Return the samples at the positions `order`."""
        names = ("truth", "student", "floor", "group")
        parts = {name: getattr(self, name)[order] for name in names}
        ceiling = None if self.ceiling is None else self.ceiling[order]
        return replace(self, **parts, ceiling=ceiling, ids=[self.ids[place] for place in order])

    def reorder_classes(self, classes: Sequence[str]) -> "RunAnswers":
        """Return the same answers with indices into another list of classes."""
        place = np.array([*(list(classes).index(name) for name in self.classes), -1])
        names = ("truth", "student", "floor")
        parts = {name: place[getattr(self, name)] for name in names}
        ceiling = None if self.ceiling is None else place[self.ceiling]
        return replace(self, **parts, ceiling=ceiling, classes=classes)


def random_answers(
    seed: int,
    skill: float,
    samples: int = 240,
    classes: Sequence[str] = CLASSES,
    groups: int = 80,
    **more: Any,
) -> RunAnswers:
    """Return a student that is right on a share `skill`; samples are the same for every seed."""
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    truth = fixed.integers(len(classes), size=samples)

    def draw(share: float, draws: np.random.Generator) -> NDArray[np.int64]:
        wrong = (truth + 1 + draws.integers(len(classes) - 1, size=samples)) % len(classes)
        return np.where(draws.random(samples) < share, truth, wrong)

    floor, ceiling = draw(0.4, fixed), draw(0.95, fixed)
    return RunAnswers(
        truth,
        draw(skill, rng),
        floor,
        ceiling,
        np.arange(samples) % groups,
        [f"{place:05d}.png" for place in range(samples)],
        classes,
        **more,
    )


def make_run(folder: Path, answers: RunAnswers, finished: bool = True) -> Path:
    """Write the records of a run; return the folder."""
    controls = [] if answers.ceiling is None else ["ceiling"]
    config = {
        "run": {"name": folder.name, "seed": 0, "seeds": None, "output": "outputs"},
        "data": {"source": "digits", "limit": None},
        "teachers": {"hierarchy": {"levels": [1]}},
        "rounds": {"repeat": 1, "loss": {"name": "cross_entropy"}},
        "controls": controls,
        "execution": {"device": "cpu"},
    }
    for key, value in answers.config.items():
        section, name = key.split(".")
        config[section][name] = value  # type: ignore[index]
    folder.mkdir(parents=True)
    (folder / MARKER).write_text('{"format": 1, "config_hash": ""}')
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_json(folder / "environment.json", answers.environment)
    _samples(folder, answers)
    _stages(folder, answers, [*controls] if finished else [])
    _answers(folder, answers)
    lines = [
        json.dumps({"tag": tag, "value": value, "step": step, "time": 1.0})
        for tag, step, value in answers.scalars
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if finished:
        _summary(folder, answers)
    return folder


def make_seeds(folder: Path, answers: Mapping[int, RunAnswers]) -> Path:
    """Write the records of a run over seeds; return the folder."""
    for seed, one in answers.items():
        config = {**one.config, "run.seed": seed}
        make_run(folder / f"seed-{seed}", replace(one, config=config))
    tree = {"run": {"name": folder.name, "seed": 0, "seeds": list(answers)}, "rounds": {}}
    (folder / MARKER).write_text('{"format": 1, "config_hash": ""}')
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


def _samples(folder: Path, answers: RunAnswers) -> None:
    classes = pd.CategoricalDtype(list(answers.classes))
    label = pd.Categorical.from_codes(answers.truth, dtype=classes)
    domain = np.arange(len(answers.truth)) * len(answers.domains) // len(answers.truth)
    table = pd.DataFrame(
        {
            "split": "test",
            "sample_id": list(answers.ids),
            "true_label": label,
            "domain": pd.Categorical.from_codes(domain, list(answers.domains)),
            "group": answers.group,
            "answer": label,
        }
    )
    table.to_parquet(folder / "samples.parquet", index=False)


def _stages(folder: Path, answers: RunAnswers, controls: Sequence[str]) -> None:
    prepared = {
        "classes": list(answers.classes),
        "domains": list(answers.domains),
        "answers": list(answers.classes),
        "measured": "on the test split",
        "teachers": [{"name": "all", "level": 0, "steps": 5, "accuracy": 0.5, "chosen_by": 0.5}],
        "floor": {"teacher": "all", "accuracy": 0.5},
    }
    write_json(folder / "stages" / "prepared.json", prepared)
    for stage in ("data", "teachers", "annotate", *(f"control-{n}" for n in controls)):
        write_json(folder / "stages" / f"{stage}.json", {"seconds": 1.0})
    numbers = {"round": 1, "level": 0, "teachers": ["all"], "assigner": "single", "seconds": 1.0}
    write_json(folder / "stages" / "round-1.json", numbers)
    scope = {"classes": None, "domains": None}
    teacher = {"name": "all", "kind": "linear_pixels", "level": 0, **scope, "steps": 5}
    teacher |= {"identity": "made", "recipe": "made"}
    write_json(folder / "teachers" / "all.json", teacher)


def _answers(folder: Path, answers: RunAnswers) -> None:
    files = {
        "checkpoints/round-1/test": answers.student,
        "annotations/test/all/00000": answers.floor,
    }
    if answers.ceiling is not None:
        files["checkpoints/control-ceiling"] = answers.ceiling
    for name, labels in files.items():
        probs = torch.zeros(len(labels), len(answers.classes))
        known = torch.from_numpy(labels >= 0)
        probs[known, torch.from_numpy(labels)[known]] = 0.75
        save_tensors(folder / f"{name}.safetensors", ProbTable.compress(probs).tensors())


def _summary(folder: Path, answers: RunAnswers) -> None:
    pgr = None
    if answers.ceiling is not None:
        parts = (answers.floor, answers.student, answers.ceiling)
        floor, student, ceiling = (float((part == answers.truth).mean()) for part in parts)
        pgr = (student - floor) / (ceiling - floor)
    write_json(
        folder / "summary.json",
        {
            "run": folder.name,
            "status": "finished",
            "measured": "on the test split",
            "student": {"pgr": pgr, "pgr_ci95": None if pgr is None else [pgr - 0.1, pgr + 0.1]},
            "seconds": {"total": 12.5},
            "peak_rss_mb": 512.0,
        },
    )
