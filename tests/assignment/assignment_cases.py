"""Evidence for the tests of assigners: random arrays for properties, rotated real digits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from cosup.assignment import Assigner
from cosup.evidence import Evidence, Scopes, Truth


@dataclass(frozen=True)
class Case:
    """Evidence of N samples, the scopes of T teachers, and their provenance."""

    evidence: Evidence
    scopes: Scopes
    provenance: tuple[Tensor, Tensor]

    def batches(self, size: int) -> "Chunks":
        return Chunks(self.evidence, size)

    def run(self, assigner: Assigner, size: int | None = None, seed: int = 0) -> Tensor:
        """Fit and assign, in batches of `size` samples (all at once by default)."""
        batches = self.batches(size or len(self.evidence))
        provenance = self.provenance if "provenance" in assigner.uses else None
        assigner.fit(batches, self.scopes, seed=seed, provenance=provenance)
        return torch.cat([assign(assigner, part, self.scopes) for part in batches])

    def permuted(self, order: list[int]) -> "Case":
        """The same samples with the teachers in another order."""
        evidence = self.evidence
        return Case(
            replace(evidence, annotations=evidence.annotations[:, order]),
            self.scopes.take(order),
            (self.provenance[0], self.provenance[1][:, order]),
        )


@dataclass(frozen=True)
class Chunks:
    """Evidence in batches of `size` samples."""

    evidence: Evidence
    size: int

    def __iter__(self) -> Iterator[Evidence]:
        for start in range(0, len(self.evidence), self.size):
            yield take(self.evidence, slice(start, start + self.size))


def take(evidence: Evidence, rows: slice) -> Evidence:
    assert evidence.features is not None
    assert evidence.truth is not None
    truth = Truth(evidence.truth.labels[rows], evidence.truth.domains[rows])
    return Evidence(
        evidence.student_probs[rows],
        evidence.annotations[rows],
        evidence.features[rows],
        truth,
        index=evidence.indices()[rows],
        domains=None if evidence.domains is None else evidence.domains[rows],
        has_student=evidence.has_student,
    )


def assign(assigner: Assigner, evidence: Evidence, scopes: Scopes) -> Tensor:
    """Return the weights of an assigner that is given the truth only if it needs it."""
    truth = evidence.truth if "truth" in assigner.needs else None
    return assigner.assign(replace(evidence, truth=truth), scopes).weights


def random_case(seed: int, samples: int, teachers: int, classes: int, abstain: float = 0.0) -> Case:
    """Random probabilities; class c belongs to the scope of teacher c % T."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, classes, generator=generator).mul(2).softmax(1)
    annotations = torch.randn(samples, teachers, classes, generator=generator).mul(2).softmax(2)
    silent = torch.rand(samples, teachers, generator=generator) < abstain
    silent[:1, 0] = False  # at least one teacher answers
    annotations[silent] = 0
    features = torch.randn(samples, 3, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    scopes = Scopes.of(
        [range(t, classes, teachers) for t in range(teachers)],
        classes,
        names=[f"t{t}" for t in range(teachers)],
    )
    known = torch.randn(3 * teachers, 3, generator=generator)
    membership = torch.eye(teachers).repeat(3, 1)
    truth = Truth(labels, torch.zeros_like(labels))
    evidence = Evidence(student, annotations, features, truth, domains=truth.domains)
    return Case(evidence, scopes, (known, membership))


@cache
def rotated_digits() -> Case:
    """Four domains (real scans turned by 0, 30, 60, 90 degrees), one specialist trained on each.

    The student is a plain classifier of all domains, trained on few labels. Features: 16 x 16
    pixels. Scans of the teachers' and the student's samples are apart.
    """
    digits = load_digits()
    scans = slice(0, 500)
    pixels, features, labels, domains, scan = [], [], [], [], []
    for number, image in enumerate(digits.images[scans]):
        large = Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize((32, 32), 3)
        for domain, angle in enumerate((0, 30, 60, 90)):
            turned = large.rotate(angle, Image.Resampling.BICUBIC)
            pixels.append(np.asarray(turned.resize((8, 8), 4), dtype=np.float32).ravel() / 255)
            features.append(np.asarray(turned.resize((16, 16), 4), dtype=np.float32).ravel() / 255)
            labels.append(digits.target[number])
            domains.append(domain)
            scan.append(number)
    x, f, y, d, s = map(np.array, (pixels, features, labels, domains, scan))
    own, rest = s < 200, s >= 200
    annotations = np.stack(
        [_classifier(x[own & (d == k)], y[own & (d == k)], x[rest]) for k in range(4)], axis=1
    )
    student = _classifier(f[own][::3], y[own][::3], f[rest])
    evidence = Evidence(
        torch.tensor(student, dtype=torch.float32),
        torch.tensor(annotations, dtype=torch.float32),
        torch.tensor(f[rest]),
        Truth(torch.tensor(y[rest]), torch.tensor(d[rest])),
    )
    scopes = Scopes.of([None] * 4, 10, [[k] for k in range(4)], 4)
    return Case(evidence, scopes, (torch.tensor(f[own]), torch.eye(4)[torch.tensor(d[own])]))


def _classifier(inputs: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    model = LogisticRegression(max_iter=300).fit(inputs, labels)
    return np.asarray(model.predict_proba(others))
