"""Run one of several processes that train together: `python several_ranks.py RANK SIZE FOLDER`.

It runs the trainings of `test_ranks.py` and writes the results of its rank.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers.student_jobs import (
    CPU,
    DATA,
    EVERYTHING,
    lesson,
    live_job,
    network_job,
    state,
    training,
)
from torch import Tensor, nn

from cosup.errors import RunError
from cosup.losses import CrossEntropy, Objective
from cosup.losses.base import Metrics
from cosup.models.classifier import Classifier, build_classifier
from cosup.models.compute import Compute
from cosup.models.ranks import ALONE, Ranks, joined
from cosup.models.train import Batch, TrainContext, TrainModule, train_network
from cosup.models.watch import OnStep


class Plain(nn.Module):
    """A small network without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 256, 32), nn.GELU(), nn.Linear(32, 10)
        )
        self.idle = nn.Linear(3, 3)  # not read

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.layers(pixels)
        return out


def plain(ranks: Ranks, accumulate: int = 1, norms: bool = False) -> dict[str, Tensor]:
    """Train on batches of 21, whose slices differ in size and weight."""
    base = build_classifier("cifar_resnet8", 10, None, 16)
    torch.manual_seed(0)
    classifier = base if norms else Classifier("plain", Plain(), base.input, 10)
    found = lesson()

    def batches(start: int) -> Iterator[Batch]:
        images = torch.randint(0, 256, (21, 3, 16, 16), generator=torch.Generator().manual_seed(1))
        for step in range(start, 6):
            rows = torch.arange(step * 21, (step + 1) * 21)[ranks.own(21)]
            own = images[ranks.own(21)].to(torch.uint8)
            yield Batch(own, found.targets.dense(rows), found.weights[rows])

    train_network(
        TrainModule(classifier),
        batches,
        Objective(CrossEntropy()),
        training(steps=6, batch_size=20, optimizer="sgd", accumulate=accumulate, clip=0.5),
        6,
        TrainContext(1, Compute(ranks=ranks)),
        classifier.pixels,
    )
    return dict(classifier.model.state_dict())


class Killed(Exception):
    pass


SHARED = {**EVERYTHING, "batch_size": 24, "steps": 5}
"""A batch that three ranks can share, in pairs of two parts."""


def resumed(ranks: Ranks, folder: Path) -> dict[str, Tensor]:
    """Train, interrupt every rank after its fourth step, and resume.

    Only the first rank has the saved state.
    """
    compute = Compute(CPU, scratch=folder / f"rank-{ranks.rank}", ranks=ranks)

    def kill(step: int, *_: object) -> None:
        if step == 4:
            raise Killed

    try:
        network_job(**SHARED).run(DATA, compute, kill)
    except Killed:
        assert compute.scratch is not None
        assert len(list(compute.scratch.glob("*.state"))) == (ranks.rank == 0)
    steps: list[int] = []
    again = network_job(**SHARED)
    again.run(DATA, compute, lambda step, *_: steps.append(step))
    assert steps == [4, 5], steps
    return state(again.classifier)


def diverged(ranks: Ranks) -> str:
    """Return the error of a loss that only the second rank's samples make infinite."""
    job = network_job(batch_size=300)
    weights = job.lesson.weights.clone()
    weights[2:] = torch.inf
    job = replace(job, rows=torch.arange(4), lesson=replace(job.lesson, weights=weights))
    try:
        job.run(DATA, Compute(CPU, ranks=ranks))
    except RunError as error:
        return str(error)
    return "nothing"


Steps = list[tuple[int, float, dict[str, float]]]


def recorder(steps: Steps) -> OnStep:
    """Return a callback that records the steps of a training."""

    def on_step(step: int, loss: float, metrics: Metrics) -> None:
        steps.append((step, loss, {name: float(value) for name, value in metrics.items()}))

    return on_step


def results(ranks: Ranks) -> dict[str, Any]:
    """Return all results that are compared."""
    compute = Compute(CPU, ranks=ranks)
    networks = Steps()
    found: dict[str, Any] = {
        "plain": plain(ranks),
        "plain in parts": plain(ranks, accumulate=2),
        "with batch norm": plain(ranks, norms=True),
        "network": state(network_job().run(DATA, compute, recorder(networks))),
        "network steps": networks,
        "live": state(live_job().run(DATA, compute)),
        "diverged": diverged(ranks),
    }
    return found


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    compute = Compute(CPU, ranks=joined(CPU))
    if size == 2:
        found = results(compute.ranks)
    else:
        found = {"everything": state(network_job(**SHARED).run(DATA, compute))}
        found["resumed"] = resumed(compute.ranks, folder)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    assert ALONE.size == 1
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
