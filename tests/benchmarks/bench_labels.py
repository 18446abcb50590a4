"""Measure ways to label student_train from a finished run, by true labels.

    cosup run configs/quickstart.yaml --output RUN controls=[]
    python tests/benchmarks/bench_labels.py RUN [RUN ...]

Prints for each way the share of labels that are right, the mean probability of the labels, and how
well wrong ones are found (average precision): by the probability of the label, by its lead over the
runner-up, and by the student's probability of the label alone. `labels` is the rule of
`labels.parquet` (METHODS.md section 11).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from cosup.assignment.fused import Fused
from cosup.config import load_config
from cosup.config.schema import Assigners
from cosup.levels import Stream
from cosup.posterior import SMALLEST
from cosup.runs.assemble import Prepared
from cosup.runs.backend import Local
from cosup.runs.choose import choose_recipe
from cosup.runs.context import RunContext
from cosup.runs.directory import RunDirectory
from cosup.runs.labels import run_posterior
from cosup.runs.prepare import prepare
from cosup.runs.recorder import open_recorder
from cosup.runs.stages import cross_fitted
from cosup.seeds import seed_for


def product(first: Tensor, second: Tensor) -> Tensor:
    """Return the normalised product of two posteriors [N, C]."""
    return (first.clamp_min(SMALLEST).log() + second.clamp_min(SMALLEST).log()).softmax(1)


def ways(context: RunContext, prepared: Prepared) -> Iterator[tuple[str, Tensor]]:
    """Yield the probabilities [N, C] of each way."""
    numbers = 1
    while context.run.is_done(f"round-{numbers + 1}"):
        numbers += 1
    rounds = [context.run.load(f"round-{number}") for number in range(1, numbers + 1)]
    task, files = prepared.task, context.files.round(numbers)
    level = task.levels[rounds[-1]["level"]]
    assigner = Assigners.build(context.config.rounds.assignment)
    if files.assigner.exists():
        assigner.load_state_dict(files.assigner.read())
    guide = None
    if numbers > 1:
        guide = context.files.round(numbers - 1).train.read(task.num_classes)
    stream = Stream(level, guide, task.features, task.truth).restricted(assigner.uses)
    annotation = torch.cat([assigner.assign(one, level.scopes).targets for one in stream])
    yield "annotation", annotation
    fused = Fused(student=False)
    stream = Stream(level, None, task.features, task.truth).restricted(fused.uses)
    seed = seed_for(context.seed, "labels")
    fused.fit(stream, level.scopes, seed=seed, provenance=level.provenance)
    sources = torch.cat([fused.posterior(one) for one in stream])
    yield "sources alone", sources
    table = cross_fitted(context, numbers, task.num_classes)
    if table is None:
        return
    student = table.dense()
    yield "student", student
    yield "annotation x student", product(annotation, student)
    yield "their mean", (annotation + student) / 2
    yield "sources x student", product(sources, student)
    if isinstance(assigner, Fused):
        stream = Stream(level, table, task.features, task.truth).restricted(assigner.uses)
        yield "the run's, last student", torch.cat([assigner.posterior(one) for one in stream])
    fused = Fused()
    stream = Stream(level, table, task.features, task.truth).restricted(fused.uses)
    fused.fit(stream, level.scopes, seed=seed, provenance=level.provenance)
    yield "student as a source", torch.cat([fused.posterior(one) for one in stream])
    found = run_posterior(context, prepared, rounds, table)
    rule = torch.cat([posterior for _, posterior, _ in found.batches()])
    yield "labels", rule
    decisions = context.files.round(numbers).decisions.read()
    kept = torch.tensor(decisions["kept"].to_numpy(bool))
    if not bool(kept.all()):
        yield "labels where kept", torch.where(kept[:, None], rule, student)


def measure(path: Path) -> None:
    """Print the figures of one run."""
    config = load_config(path / "config.yaml")
    with RunDirectory.open(path, config, resume=True) as run, open_recorder(run.path) as recorder:
        context = RunContext(config, run, recorder, Local())
        context, prepared, choice = choose_recipe(context, prepare(context))
        name = context.config.rounds.assignment.name
        print(f"\n{path}: {name if choice is None else choice['chosen']}")
        print(f"{'':24} right  mean p   AP: p  lead  student's p")
        truth, student = prepared.task.truth.labels, None
        for way, probs in ways(context, prepared):
            (first, second), label = probs.topk(2, 1).values.T, probs.argmax(1)
            student = probs if way == "student" else student
            wrong = label != truth
            scores = [1 - first, second - first]
            if student is not None:
                scores.append(1 - student.gather(1, label[:, None])[:, 0])
            found = [average_precision_score(wrong.numpy(), score.numpy()) for score in scores]
            right = 100 * (1 - wrong.double().mean())
            shown = "  ".join(f"{value:.2f}" for value in found)
            print(f"{way:24} {right:5.1f}   {100 * first.mean():5.1f}    {shown}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    for place in parser.parse_args().runs:
        measure(place)
