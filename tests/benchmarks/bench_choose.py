"""Measure how well `rounds.choose: auto` chooses, with and without labels.

    python tests/benchmarks/fusion_sets.py FOLDER
    python tests/benchmarks/bench_choose.py FOLDER [--tasks ...] [--seeds 0] [--steps 300]

Runs every recipe of `cosup.runs.recipes` on each task, all of them together, and measures the last
student on the test split. Prints, for each way of choosing, Spearman's correlation of its score
with the test accuracy over the recipes, and the regret: the points of test accuracy by which the
chosen recipe falls short of the best one. Half of the test split of a set serves as its validation
split, and only the other half is measured; it is used for nothing else. A task is a set of images
with some of its sources; those of one set are different tasks, as other recipes win.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from cosup.assignment.exponents import fit_exponent
from cosup.config.rounds import RoundsSection
from cosup.config.student import StudentSection
from cosup.evidence import Scopes, Truth
from cosup.levels import ArrayAnnotations, Level, Stream, Task
from cosup.losses import Objective
from cosup.probabilities import ProbTable
from cosup.protocols import Student
from cosup.rounds import Outcome, run_rounds_together
from cosup.runs.recipes import RECIPES, NamedRecipe, Need, available
from cosup.runs.scores import Reference, judge
from cosup.runs.stages import round_recipe
from cosup.student.head import HeadStudent
from cosup.student.setup import StudentSetup

TASKS = {
    "digits specialists": ("digits", "specialists"),
    "digits all": ("digits", "all"),
    "sites all": ("sites", "all"),
    "sites annotators": ("sites", "annotators"),
    "classes specialists": ("classes", "specialists"),
    "classes annotators": ("classes", "annotators"),
    "solar all": ("solar", "all"),
    "solar specialists": ("solar", "specialists"),
    "weak_digits": ("weak_digits", "specialists"),
    "weak_fashion": ("weak_fashion", "specialists"),
}
FOLDS = 3
SCORES = ("validation", "teacher_train", "agreement", "mass", "likelihood", "likelihood, b = 1")


@dataclass(frozen=True)
class Case:
    """A task: what plain assigners read, what fusing ones read, and the labels to measure with."""

    plain: Task
    fusing: Task
    has: frozenset[Need]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    trained: tuple[Tensor, Tensor]


PER_SAMPLE = ("features", "truth", "domains", "soft", "annotators", "generalist")


def build(arrays: Mapping[str, Any], sources: str, most: int) -> Case:
    """Return a task of at most `most` samples of the set with these sources: specialists,
    annotators or all."""
    chosen = np.random.default_rng(0).permutation(len(arrays["truth"]))[:most]
    arrays = {k: v[chosen] if k in PER_SAMPLE else v for k, v in arrays.items()}
    tensor = {k: torch.from_numpy(v) for k, v in arrays.items() if v.dtype.kind in "fiub"}
    truth = Truth(tensor["truth"].long(), tensor["domains"].long())
    soft, features = tensor["soft"].float(), tensor["features"]
    count, classes = len(truth.labels), soft.shape[2]
    hard = (
        [
            functional.one_hot(said.long().clamp_min(0), classes).float() * (said >= 0)[:, None]
            for said in tensor["annotators"].T
        ]
        if "annotators" in tensor
        else []
    )
    everything = torch.ones(1, classes, dtype=torch.bool)
    domains = (
        tensor["scope_domains"].bool()
        if "scope_domains" in tensor
        else torch.ones(soft.shape[1], 1, dtype=torch.bool)
    )
    everywhere = torch.ones(1, domains.shape[1], dtype=torch.bool)
    own = [
        (f"teacher_{t}", soft[:, t], tensor["scope_classes"][t : t + 1].bool(), domains[t : t + 1])
        for t in range(soft.shape[1])
    ]
    told = [(f"annotator_{j}", said, everything, everywhere) for j, said in enumerate(hard)]
    general = []
    if "generalist" in tensor:
        general = [("generalist", tensor["generalist"].float(), everything, everywhere)]
    narrow = not bool(tensor["scope_classes"].all() & domains.all())
    if sources == "annotators":
        levels = fusing = [told]
    else:
        extra = told if sources == "all" else []
        levels = [[*general, *extra], [*own, *extra]] if general else [[*own, *extra]]
        fusing = [[*general, *extra], [*own, *extra, *general]] if general else levels
    member = tensor["provenance_membership"].float() if "provenance_membership" in tensor else None

    def level(index: int, members: Sequence[tuple[str, Tensor, Tensor, Tensor]]) -> Level:
        scopes = Scopes(
            tuple(name for name, *_ in members),
            torch.cat([classes for *_, classes, _ in members]),
            torch.cat([domains for *_, domains in members]),
        )
        found = None
        if member is not None and narrow:
            # As in a run: the scope of a generalist or an annotator holds every sample.
            ones = torch.ones(len(member))
            columns = [
                member[:, int(name.split("_")[1])] if name.startswith("teacher") else ones
                for name, *_ in members
            ]
            found = (tensor["provenance_features"], torch.stack(columns, 1))
        return Level(
            index, scopes, ArrayAnnotations(torch.stack([a for _, a, *_ in members], 1)), found
        )

    outside = torch.arange(len(tensor["test_truth"])) % 2 == 0
    features_out, labels_out = tensor["test_features"], tensor["test_truth"].long()

    def task(members: Sequence[Sequence[tuple[str, Tensor, Tensor, Tensor]]]) -> Task:
        made = tuple(level(index, each) for index, each in enumerate(members))
        return Task(made, features, features_out, truth, classes, features, None)

    has: set[Need] = set()
    has |= {"several"} if len(levels[-1]) > 1 else set()
    has |= {"specialists"} if narrow and sources != "annotators" else set()
    assert len(features) == count
    return Case(
        task(levels),
        task(fusing),
        frozenset(has),
        (torch.nonzero(outside)[:, 0], labels_out[outside]),
        (torch.nonzero(~outside)[:, 0], labels_out[~outside]),
        (tensor["provenance_features"], tensor["provenance_labels"].long()),
    )


def measure(case: Case, steps: int, seed: int) -> list[dict[str, Any]]:
    """Run every recipe; return the scores and the accuracies of each one's last student."""
    student = StudentSection.model_validate(
        {
            "backbone": {"name": "none"},
            "training": {"steps": steps, "batch_size": 128, "lr": 0.002, "standardize": True},
            "cross_fit": FOLDS,
        }
    )
    size = len(case.plain.truth.labels)
    folds = torch.randperm(size, generator=torch.Generator().manual_seed(seed)) % FOLDS
    setup = StudentSetup(student, case.plain.num_classes, folds=folds)
    made: dict[int, list[HeadStudent]] = {}

    def maker(place: int) -> Any:
        def new(objective: Objective, seed: int) -> Student:
            made.setdefault(place, []).append(HeadStudent(setup, objective, seed))
            return made[place][-1]

        return new

    recipes = available(case.has)
    plans = []
    for place, named in enumerate(recipes):
        section = RoundsSection.model_validate(named.rounds)
        fuses = named.assignment["name"] == "fused"
        plans.append((case.fusing if fuses else case.plain, round_recipe(section, maker(place))))
    started = time.monotonic()
    last: list[Any] = [None] * len(plans)
    for outcomes in run_rounds_together(plans, seed, needed=True):
        last = [new or old for new, old in zip(outcomes, last, strict=True)]
    seconds = time.monotonic() - started
    level = case.fusing.levels[-1]
    reference = Reference.of(Stream(level, None, case.fusing.features, None), level, seed)
    truth, rows = case.plain.truth.labels, []
    for place, named in enumerate(recipes):
        outcome, head = last[place], made[place][-1]
        labels = outcome.test_probs.top()[0]
        own = outcome.train_probs
        rows.append(
            {
                "recipe": named.name,
                "test": accuracy(labels[case.test[0]], case.test[1]),
                "validation": accuracy(labels[case.validation[0]], case.validation[1]),
                "teacher_train": accuracy(head.predict(case.trained[0]).top()[0], case.trained[1]),
                **scores(reference, own),
                "annotations": accuracy(outcome.assigned.targets.top()[0], truth),
                "judge": judging(named, plans[place][0], outcome, seed),
            }
        )
    print(f"  {seconds:.0f} s, validation {len(case.validation[0])}", flush=True)
    return rows


def scores(reference: Reference, own: ProbTable) -> dict[str, float]:
    """Return the scores without labels that were tried, of cross-fitted predictions."""
    probs, posterior = own.dense(slice(0, len(own))).clamp_min(1e-6), reference.posterior
    exponent = fit_exponent(probs.log(), posterior.clamp_min(1e-12).log(), torch.ones(len(probs)))
    sharp = (probs.log() * exponent).softmax(1)
    return {
        "mass": 100 * reference.right(own),
        "agreement": 100 * float(reference.agrees(own).mean()),
        "likelihood": float((sharp * posterior).sum(1).double().log().mean()),
        "likelihood, b = 1": float((probs * posterior).sum(1).double().log().mean()),
    }


def judging(named: NamedRecipe, task: Task, outcome: Outcome, seed: int) -> dict[str, float] | None:
    """Return the estimates by which a filter is judged, with what is right, in percent."""
    found = judge(RoundsSection.model_validate(named.rounds), task, outcome, seed)
    if found is None or outcome.guide is None:
        return None
    truth = task.truth.labels
    return {
        **{name: 100 * value for name, value in found.items()},
        "student, true": accuracy(outcome.guide.top()[0], truth),
        "annotations, true": accuracy(outcome.assigned.targets.top()[0], truth),
    }


def accuracy(labels: Tensor, truth: Tensor) -> float:
    """Return the accuracy in percent."""
    return 100 * float((labels == truth).double().mean())


def main() -> None:
    """Run the tasks and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--save", type=Path, help="write what is measured to this file")
    parser.add_argument("--load", action="store_true", help="read it from there instead")
    asked = parser.parse_args()
    if asked.load:
        report(json.loads(asked.save.read_text()))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in asked.seeds:
        for name in asked.tasks:
            set_name, sources = TASKS[name]
            with np.load(asked.folder / f"{set_name}-{seed}.npz", allow_pickle=False) as arrays:
                case = build(dict(arrays), sources, asked.samples)
            print(f"{name}, seed {seed}", flush=True)
            rows = found[f"{name}, {seed}"] = measure(case, asked.steps, seed)
            for row in rows:
                print("  ", row)
            if asked.save:
                asked.save.write_text(json.dumps(found))
    report(found)


def report(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print correlation and regret of each score, over the recipes that there are now.

    Recipes whose filter has a weak judge are not taken. Ties are broken as the highest value.
    """
    names = {recipe.name for recipe in RECIPES}
    found = {task: [row for row in rows if row["recipe"] in names] for task, rows in found.items()}
    for score in SCORES:
        print(f"{score}:")
        correlations, regrets = [], []
        for task, rows in found.items():
            tests = [row["test"] for row in rows]
            correlations.append(float(spearmanr([row[score] for row in rows], tests).statistic))
            fine = [row for row in rows if not weak(row["judge"])]
            taken = max(fine, key=lambda row: row[score])
            regrets.append(max(tests) - taken["test"])
            print(f"  {task}: {correlations[-1]:.2f}, {regrets[-1]:.1f} ({taken['recipe']})")
        print(
            f"  mean correlation {np.mean(correlations):.2f}, regret {np.mean(regrets):.2f}, at "
            f"most {max(regrets):.1f}"
        )
    for task, rows in found.items():
        for row in rows:
            if row["judge"]:
                print(f"{task}, {row['recipe']}: {row['judge']}")


def weak(judge: Mapping[str, float] | None) -> bool:
    """Return whether a filter's judge is weaker than what it judges, by the estimates."""
    return judge is not None and judge["student"] < judge["annotations"]


if __name__ == "__main__":
    main()
