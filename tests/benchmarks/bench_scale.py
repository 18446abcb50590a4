"""Measure time and memory against samples N, classes C and teachers T.

    python tests/benchmarks/bench_scale.py [NAME ...] [--axis N C T] [--big] [--limit 300]
    python tests/benchmarks/bench_scale.py --corner [NAME ...]     # 1,000 classes, 128 teachers

One of the three sizes grows while the others stay as in `BASE`; `--big` adds 10^6 samples. Each
case runs in a process of its own with one thread. Printed are the seconds of processor time (which
other work on the machine changes little), the peak memory beyond what the process held before, and
the exponent p of "grows as size^p" between the last two sizes. Allowed: nothing grows faster than
N log N (an exponent of 1.1 here), and nothing holds N x T x C values.

The annotations are simulated: a block of samples with random true classes and teachers of different
skill, repeated to N samples, as their number matters here and not their content.
"""

import argparse
import math
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from cosup.assignment import ASSIGNERS, Assigner
from cosup.consistency import FILTERS, Chain
from cosup.evidence import Scopes, Truth
from cosup.levels import MAX_ELEMENTS, Assignment, Level, Stream
from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.models.fit import fit_heads, predict_heads
from cosup.models.head_fit import HeadFit
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.probabilities import ProbTable
from cosup.rounds import assign

BLOCK, FEATURES, INPUTS = 1024, 32, 256
AXES = {
    "N": (10_000, 100_000),
    "C": (10, 100, 1000),
    "T": (4, 16, 64, 128),
}
BIG = 1_000_000
SAMPLEWISE = ("confidence", "given_label", "unanimity", "teacher_student")


@dataclass(frozen=True)
class Size:
    """Number of samples, classes and teachers."""

    N: int = 10_000
    C: int = 10
    T: int = 4


BASE = {"N": Size(), "C": Size(T=16), "T": Size(C=100)}
"""The sizes that stay while one grows."""


@dataclass(frozen=True)
class Repeated:
    """Annotations of N samples [N, T, C]: those of a block of samples, again and again."""

    tables: list[ProbTable]
    samples: int

    def __len__(self) -> int:
        return self.samples

    def iter_dense(self, max_elements: int = MAX_ELEMENTS) -> Iterator[tuple[slice, Tensor]]:
        """Yield batches of at most `max_elements` values."""
        block, classes = len(self.tables[0]), self.tables[0].num_classes
        step = min(block, max(1, max_elements // (len(self.tables) * classes)))
        for start in range(0, self.samples, block):
            end = min(start + block, self.samples)
            for first in range(start, end, step):
                rows = slice(first, min(first + step, end))
                part = slice(rows.start - start, rows.stop - start)
                dense = torch.empty(rows.stop - rows.start, len(self.tables), classes)
                for place, table in enumerate(self.tables):
                    dense[:, place] = table.dense(part)
                yield rows, dense


@dataclass(frozen=True)
class Problem:
    """What a case works on. features: [N, 32] float16. labels: [N]."""

    stream: Stream
    labels: Tensor

    @staticmethod
    def of(size: Size, *, hard: bool = False, special: bool = False) -> "Problem":
        """Simulate a level. hard: teachers give classes alone, as tables of annotators do.
        special: each lacks other classes in its scope."""
        draw = torch.Generator().manual_seed(0)
        block = min(BLOCK, size.N)
        true = torch.randint(size.C, (block,), generator=draw)
        tables = [_answers(true, size.C, draw, hard) for _ in range(size.T)]
        means = torch.randn(size.C, FEATURES, generator=draw)
        near = (means[true] + torch.randn(block, FEATURES, generator=draw)).half()
        times = -(-size.N // block)
        labels = true.repeat(times)[: size.N]
        features = near.repeat(times, 1)[: size.N]
        student = _answers(true, size.C, draw, hard=False)
        whole = ProbTable.concat([student] * times).take(slice(size.N))
        lacks = [{t % size.C, (t + t // size.C) % size.C} if special else () for t in range(size.T)]
        parts = [[c for c in range(size.C) if c not in without] for without in lacks]
        level = Level(0, Scopes.of(parts, size.C), Repeated(tables, size.N))
        truth = Truth(labels, torch.zeros(size.N, dtype=torch.int64))
        stream = Stream(level, whole, features, truth, labels=labels)
        return Problem(stream, labels)


def _answers(true: Tensor, classes: int, draw: torch.Generator, hard: bool) -> ProbTable:
    skill = 2 + 4 * float(torch.rand((), generator=draw))
    logits = torch.randn(len(true), classes, generator=draw)
    logits[torch.arange(len(true)), true] += skill
    if hard:
        return ProbTable.one_hot(logits.argmax(1), classes)
    return ProbTable.compress((logits * 2).softmax(1))


def assigning(name: str, *, hard: bool = False, **settings: object) -> Callable[[Size], None]:
    """Return a case that fits an assigner and assigns all samples."""

    def run(size: Size) -> Callable[[], object]:
        problem = Problem.of(size, hard=hard, special=name == "block")
        given = {"teacher": "teacher_0"} if name == "single" else {}
        made = ASSIGNERS[name].load()
        assigner: Assigner = made(**settings, **given)
        return lambda: assign(assigner, problem.stream, 0)

    return run


def filtering(size: Size) -> Callable[[], object]:
    """Return the filters that train no student, as one chain."""
    stream = Problem.of(size).stream
    chain = Chain(SAMPLEWISE, [FILTERS[name].load()() for name in SAMPLEWISE])
    weights = functional.one_hot(torch.arange(size.N) % size.T, size.T).float()
    assignment = Assignment(weights, ProbTable.empty(0, size.C))
    return lambda: chain.run(stream, assignment)


def fitting(size: Size) -> Callable[[], object]:
    """Return the update of a student in a round: a head, ten epochs, and its predictions."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(size.C, (size.N,), generator=draw)
    features = torch.empty(size.N, INPUTS, dtype=torch.float16)
    for start in range(0, size.N, 4096):
        rows = features[start : start + 4096]
        rows.copy_(torch.randn(rows.shape, generator=draw))
    fit = HeadFit(
        features,
        ProbTable.one_hot(labels, size.C),
        members=[torch.arange(size.N)],
        head=HeadSection(kind="linear"),
        training=TrainingSection(epochs=10, batch_size=1000, lr=0.01, optimizer="adam"),
        objective=Objective(CrossEntropy()),
        seed=0,
        hard=True,
    )
    return lambda: predict_heads(fit_heads(fit), features)


def crowd_kit(size: Size) -> Callable[[], object]:
    """Return crowd-kit's Dawid-Skene on the classes that the teachers give."""
    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    stream = Problem.of(size, hard=True).stream
    said = torch.cat([batch.annotations.argmax(2) for batch in stream])
    frame = pd.DataFrame(
        {
            "task": torch.arange(size.N).repeat_interleave(size.T).numpy(),
            "worker": torch.arange(size.T).repeat(size.N).numpy(),
            "label": said.flatten().numpy(),
        }
    )
    return lambda: DawidSkene(n_iter=10).fit_predict(frame)


CASES: dict[str, Callable[[Size], Callable[[], object]]] = {
    **{name: assigning(name) for name in ASSIGNERS if name not in ("dawid_skene", "fused")},
    "dawid_skene, classes": assigning("dawid_skene", hard=True, annotations="hard", iterations=10),
    "dawid_skene, probabilities": assigning("dawid_skene", iterations=3),
    "fused, classes": assigning("fused", hard=True, iterations=10),
    "fused, probabilities": assigning("fused", iterations=10),
    "filters": filtering,
    "head": fitting,
    "crowd-kit's Dawid-Skene": crowd_kit,
}
LEFT_OUT = {"head": "T", "filters": ""}
CORNER = ("dawid_skene, classes", "fused, classes", "crowd-kit's Dawid-Skene")


@dataclass(frozen=True)
class Cost:
    """Processor time in seconds, and peak memory in MiB beyond what was held before."""

    seconds: float
    mib: float


def main() -> None:
    """Measure what is asked for, and print a row for each case and axis."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(CASES), metavar="NAME")
    parser.add_argument("--axis", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--big", action="store_true", help="10^6 samples too")
    parser.add_argument("--corner", action="store_true", help="1,000 classes and 128 teachers")
    parser.add_argument("--limit", type=int, default=300, help="of processor time for a case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.corner:
        for name in (name for name in CORNER if name in options.names):
            row(name, "N", [Size(count, 1000, 128) for count in (2000, 10_000)], options.limit)
        return
    print("| what | sizes | seconds | MiB | grows as |\n| --- | --- | --- | --- | --- |")
    for axis in options.axis:
        values = [*AXES[axis], *([BIG] if options.big and axis == "N" else [])]
        for name in options.names:
            if axis not in LEFT_OUT.get(name, ""):
                sizes = [replace(BASE[axis], **{axis: value}) for value in values]
                row(name, axis, sizes, options.limit)


def row(name: str, axis: str, sizes: list[Size], limit: int) -> None:
    """Measure a case at these sizes, the smallest first, and print a row of the table."""
    costs: list[Cost] = []
    for size in sizes:
        cost = in_own_process(name, size, limit)
        if cost is None:
            break
        costs.append(cost)
    done = sizes[: len(costs)]
    others = ", ".join(f"{key} {getattr(sizes[0], key):,}" for key in AXES if key != axis)
    values = ", ".join(f"{getattr(size, axis):,}" for size in done)
    grows = "-"
    if len(costs) > 1:
        ratio = math.log(getattr(done[-1], axis) / getattr(done[-2], axis))
        time_power = math.log(costs[-1].seconds / costs[-2].seconds) / ratio
        space_power = math.log(max(costs[-1].mib, 1) / max(costs[-2].mib, 1)) / ratio
        grows = f"{axis}^{time_power:.2f}; {axis}^{space_power:.2f}"
    seconds = ", ".join(f"{cost.seconds:.2f}" for cost in costs)
    mib = ", ".join(f"{cost.mib:,.0f}" for cost in costs)
    late = (
        "" if len(costs) == len(sizes) else f"; more at {axis} {getattr(sizes[len(costs)], axis):,}"
    )
    print(f"| {name} | {axis} {values}; {others} | {seconds}{late} | {mib} | {grows} |", flush=True)


def in_own_process(name: str, size: Size, limit: int) -> Cost | None:
    """Return the cost of a case in a forked process; None if it takes longer than the limit."""
    fork = multiprocessing.get_context("fork")
    near, far = fork.Pipe(duplex=False)
    child = fork.Process(target=_send, args=(far, name, size, limit))
    child.start()
    far.close()
    try:
        found: Cost | None = near.recv()
    except EOFError:
        found = None
    child.join()
    if found is None and child.exitcode != -signal.SIGXCPU:
        raise SystemExit(f"{name} failed at {size}")
    return found


def _send(into: Connection, name: str, size: Size, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    into.send(measure(name, size))


def measure(name: str, size: Size) -> Cost:
    """Prepare a case, then run it once."""
    run = CASES[name](size)
    before, start = _memory("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    run()
    return Cost(time.process_time() - start, _memory("VmHWM") - before)


def _memory(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status: Linux is needed")


if __name__ == "__main__":
    main()
