"""Compare ways of using class specialists without labels in the student's features.

    python tests/benchmarks/bench_class_routing.py SET [--seed 0] [--cache FOLDER]

SET: `fashion`, `digits` or `rotated`. The teachers are those of
`configs/fashion_mnist_class_hierarchy.yaml` (1, 2 and 5 teachers on blocks of classes), trained on
Fashion-MNIST, or on the quickstart's digits, upright or in four rotations. Per method: the share of
right annotations on student_train, and the test accuracy of a student (a linear head) trained on
their most probable classes with cross-entropy, without filters. Where a method reads the student's
predictions, they are cross-fitted in five folds. Nothing is chosen by the test split.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cosup.assignment.gate import Gate
from cosup.config import load_config
from cosup.config.schema import Config
from cosup.data.load import load_data
from cosup.data.loader import image_batches
from cosup.data.transforms import PixelTransform
from cosup.evidence import Evidence, Scopes, mix
from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.models.compute import Compute
from cosup.models.fit import fit_heads, predict_heads
from cosup.models.head_fit import HeadFit
from cosup.models.section import HeadSection
from cosup.probabilities import ProbTable
from cosup.teachers.base import ScopedCrossEntropy
from cosup.teachers.features import FeatureCache

CONFIGS = Path(__file__).parents[2] / "configs"
BY_CLASS = "teachers.hierarchy={by: class, levels: [1, 2, 5]}"
SETS = {
    "fashion": ("fashion_mnist_class_hierarchy.yaml", []),
    "digits": ("quickstart.yaml", [BY_CLASS, "data.rotations=[0]"]),
    "rotated": ("quickstart.yaml", [BY_CLASS]),
}
LINEAR, FOLDS, TINY = HeadSection(kind="linear"), 5, 1e-6


@dataclass
class Split:
    """features [N, D] of the student, pixels [N, P] of the teachers, labels [N]."""

    features: Tensor
    pixels: Tensor
    labels: Tensor


class Trial:
    """A set, its teachers and its student."""

    def __init__(self, config: Config, seed: int, cache: Path) -> None:
        data = load_data(config.data, seed, 1, cache)
        source = FeatureCache(Compute(cache=cache)).source(config.student.backbone)
        pixels = PixelTransform(config.teachers.model.size)
        self.config, self.seed, self.classes = config, seed, len(data.classes)
        self.known, self.train, self.test = (
            Split(
                source.of_split(data, split),
                torch.cat(
                    [
                        (batch.flatten(1).float() / 255).half()
                        for batch in image_batches(data, data.rows(split), pixels, 256, 1)
                    ]
                ),
                data.truth(data.rows(split)).labels,
            )
            for split in ("teacher_train", "student_train", "test")
        )
        generator = torch.Generator().manual_seed(seed)
        self.folds = torch.randperm(len(self.train.labels), generator=generator) % FOLDS

    def blocks(self, teachers: int) -> Tensor:
        """Return [T, C] bool: the contiguous blocks of a level."""
        parts = np.array_split(np.arange(self.classes), teachers)
        return Scopes.of([part.tolist() for part in parts], self.classes).classes

    def teach(
        self, blocks: Tensor, pixels: Sequence[Tensor], rows: Tensor | None = None, budget: int = 1
    ) -> list[Tensor]:
        """Train a level's specialists on `rows`; return their answers [n, T, C] to each input."""
        count, labels = len(blocks), self.known.labels
        allowed = torch.ones(len(labels), dtype=torch.bool) if rows is None else rows
        members = [(block[labels] & allowed).nonzero()[:, 0] for block in blocks]
        return self._fitted(labels, members, blocks, pixels, self.seed * 7 + count, budget)

    def teach_other(self, blocks: Tensor, pixels: Sequence[Tensor]) -> list[Tensor]:
        """Train them on all samples with a class "none of mine"; return answers [n, T, C + 1]."""
        labels, other = self.known.labels, torch.tensor(self.classes)
        answers = []
        for number, block in enumerate(blocks):
            own = torch.where(block[labels], labels, other)
            support = torch.cat([block, torch.ones(1, dtype=torch.bool)])[None]
            everyone = [torch.arange(len(labels))]
            seed = self.seed * 7 + number
            answers.append(self._fitted(own, everyone, support, pixels, seed))
        return [torch.cat(parts, 1) for parts in zip(*answers, strict=True)]

    def _fitted(
        self,
        labels: Tensor,
        members: list[Tensor],
        support: Tensor,
        pixels: Sequence[Tensor],
        seed: int,
        budget: int = 1,
    ) -> list[Tensor]:
        training = self.config.teachers.training
        targets = ProbTable.compress(one_hot(labels, support.shape[1]).float())
        bank = fit_heads(
            HeadFit(
                self.known.pixels,
                targets,
                members,
                LINEAR,
                training,
                Objective(ScopedCrossEntropy(support)),
                seed,
                steps=budget * training.total_steps(len(labels)),
            )
        )
        outside = ~support[:, None]
        return [
            bank(x.float()).detach().masked_fill(outside, -torch.inf).softmax(-1).transpose(0, 1)
            for x in pixels
        ]

    def student(
        self, targets: Tensor, keep: Tensor | None = None, on: Split | None = None
    ) -> tuple[float, Tensor]:
        """Train on the most probable classes; return the test accuracy and, for student_train, the
        cross-fitted predictions (the plain ones if trained `on` another split)."""
        split, training = on or self.train, self.config.student.training
        rows = torch.arange(len(targets)) if keep is None else keep.nonzero()[:, 0]
        folds = [] if on else [rows[self.folds[rows] != fold] for fold in range(FOLDS)]
        bank = fit_heads(
            HeadFit(
                split.features,
                ProbTable.compress(one_hot(targets.argmax(1), self.classes).float()),
                [rows, *folds],
                LINEAR,
                training,
                Objective(CrossEntropy()),
                self.seed * 101,
                steps=training.total_steps(len(self.train.labels)),
            )
        )
        answers = predict_heads(bank.select(0), self.test.features)[0].dense().argmax(1)
        own = predict_heads(bank.select(0), self.train.features)[0].dense()
        for fold in range(len(folds)):
            inside = self.folds == fold
            own[inside] = predict_heads(bank.select(1 + fold), self.train.features[inside])[
                0
            ].dense()
        return float((answers == self.test.labels).double().mean()), own


def log(probs: Tensor) -> Tensor:
    """Return log-probabilities, clamped."""
    return probs.clamp_min(TINY).log()


def exponent(student: Tensor, annotations: Tensor) -> float:
    """Return the student's exponent of most marginal likelihood (METHODS.md section 8)."""

    def likelihood(b: float) -> float:
        return float(((b * log(student)).log_softmax(1) + log(annotations)).logsumexp(1).mean())

    return max(torch.arange(0.1, 3.05, 0.1).tolist(), key=likelihood)


def singletons(trial: Trial, blocks: Tensor, error: float) -> tuple[Tensor, Tensor]:
    """Return answers [N, T, C] of specialists trained on four fifths of teacher_train, and [N, T]
    where their conformal sets, calibrated on the rest, hold one class."""
    count = len(trial.known.labels)
    generator = torch.Generator().manual_seed(trial.seed)
    held = torch.randperm(count, generator=generator) < count // 5
    pixels = [trial.train.pixels, trial.known.pixels[held]]
    answers, calibration = trial.teach(blocks, pixels, rows=~held)
    labels, sure = trial.known.labels[held], []
    for number, block in enumerate(blocks):
        inside = block[labels].nonzero()[:, 0]
        right = calibration[inside, number].gather(1, labels[inside, None])[:, 0]
        rank = min(math.ceil((len(right) + 1) * (1 - error)), len(right))
        least = 1 - (1 - right).sort().values[rank - 1]
        sure.append((answers[:, number, block] >= least).sum(1) == 1)
    return answers, torch.stack(sure, 1)


def main(name: str, seed: int, cache: Path) -> None:
    """Print a line per method."""
    torch.set_num_threads(1)
    file, overrides = SETS[name]
    config = load_config(CONFIGS / file, *overrides, f"run.seed={seed}")
    trial = Trial(config, seed, cache)
    one, two, five = trial.blocks(1), trial.blocks(2), trial.blocks(5)
    pixels = [trial.train.pixels]
    (all_,), (halves,), (fifths,) = (trial.teach(level, pixels) for level in (one, two, five))
    generalist = all_[:, 0]

    def show(method: str, annotations: Tensor, keep: Tensor | None = None) -> Tensor:
        chosen = torch.ones(len(annotations), dtype=torch.bool) if keep is None else keep
        right = (annotations.argmax(1) == trial.train.labels)[chosen].double().mean()
        accuracy, own = trial.student(annotations, keep)
        print(f"{method:52s} {100 * right:5.1f} {100 * accuracy:5.1f}", flush=True)
        return own

    def routed(method: str, route: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        middle = mix(halves, route(first, two))
        _, own = trial.student(middle)
        weights = route(own, five)
        show(method, mix(fifths, weights))
        return weights

    def with_student(method: str, annotations: Tensor, own: Tensor) -> None:
        for number in range(3):
            power = exponent(own, annotations)
            joint = (power * log(own) + log(annotations)).softmax(1)
            if number < 2:
                _, own = trial.student(joint)
        show(f"{method} x student, three rounds", joint)

    truth = one_hot(trial.train.labels, trial.classes).float()
    print(f"{'':52s} right student", flush=True)
    show("true labels (ceiling)", truth)
    accuracy, _ = trial.student(one_hot(trial.known.labels, trial.classes), on=trial.known)
    print(f"{'labels of teacher_train':52s}       {100 * accuracy:5.1f}", flush=True)
    first = show("generalist", generalist)
    (budget,) = trial.teach(one, pixels, budget=8)
    large = show("generalist with the budget of all eight", budget[:, 0])

    hard = routed("block", lambda own, blocks: blocks[:, own.argmax(1)].T.float())
    routed("block, mixed softly", lambda own, blocks: own @ blocks.T.float())
    with_student("generalist", generalist, first)
    with_student("generalist with the budget of all", budget[:, 0], large)
    down = generalist
    for answers, blocks in ((halves, two), (fifths, five)):
        down = mix(answers, down @ blocks.T.float())
    show("soft tree of teachers", down)
    with_student("soft tree of teachers", down, first)

    others = trial.teach_other(five, pixels)[0]
    outside = (~five).float() / (~five).sum(1, keepdim=True)
    spread = others[..., :-1] + others[..., -1:] * outside
    show("none of mine: mean", spread.mean(1))
    show("none of mine: product", log(spread).sum(1).softmax(1))
    claims = one_hot((1 - others[..., -1]).argmax(1), 5).float()
    show("none of mine: who claims the sample most", mix(others[..., :-1], claims))

    for error in (0.05, 0.1, 0.2):
        answers, sure = singletons(trial, five, error)
        answered = (hard * sure).sum(1) > 0
        block = mix(answers, hard)
        deferred = torch.where(answered[:, None], block, generalist)
        show(f"conformal {error:g}: block, else the generalist", deferred)
        show(f"conformal {error:g}: block, else left out", block, answered)
        known = five.T[trial.train.labels]
        inside, strange = (float(sure[part].double().mean()) for part in (known, ~known))
        print(f"  answered in scope {100 * inside:.0f}, outside {100 * strange:.0f}", flush=True)

    membership = five.T[trial.known.labels].float()
    for prior in ("uniform", "provenance"):
        gate, scopes = Gate(prior=prior), Scopes(tuple("abcde"), five, torch.ones(5, 1).bool())
        evidence = Evidence(first, fifths, trial.train.features.float())
        gate.fit(
            [evidence],
            scopes,
            seed=seed,
            provenance=(trial.known.features.float(), membership),
        )
        show(f"gate, prior {prior}", mix(fifths, gate.weights(evidence, scopes)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("outputs/.cache"))
    options = parser.parse_args()
    main(options.set, options.seed, options.cache)
