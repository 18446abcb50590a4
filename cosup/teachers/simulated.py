"""Simulated annotators: answers made from the true labels by a seed. METHODS.md section 5.

A planning tool (what would a fourth annotator of 70 % bring?), and what shipped examples use.
Whether an annotator answers a sample, whether the answer is right, which wrong class it is and
whether it is copied depend on the seed, the annotator's name and the sample's id alone: not on
batches, splits, other samples or the run's seed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from cosup.config.external import ExternalSection, SimulateSection
from cosup.data.images import Ints
from cosup.data.table import ImageData
from cosup.errors import UserError, unknown_name, within
from cosup.settings.teachers import SimulatedKind
from cosup.teachers.base import RowTeacher, Teacher, Training
from cosup.teachers.hierarchy import TeacherSpec

__all__ = ["Labelled", "SimulatedTeacher", "check_truth", "simulate"]

ABSTAIN = -1


@dataclass(frozen=True)
class Labelled:
    """What simulated annotators are made from.

    sample_ids: [N]. labels: [N] true classes, -1 unknown. domains: [N]. Class and domain names.
    """

    sample_ids: Sequence[str]
    labels: Ints
    domains: Ints
    classes: tuple[str, ...]
    domain_names: tuple[str, ...]

    @staticmethod
    def of(data: ImageData) -> "Labelled":
        """Return the samples of a run, without label noise."""
        rows = np.arange(len(data), dtype=np.int64)
        truth = data.truth(rows)
        ids, labels, domains = data.sample_ids(rows), truth.labels.numpy(), truth.domains.numpy()
        return Labelled(ids, labels, domains, data.classes, data.domains)


def check_truth(known: bool) -> None:
    """Raise `UserError` unless a true label of student_train is known."""
    if not known:
        problem = "simulated annotators need true labels of student_train, and none is known"
        raise UserError(problem, key="teachers.external")


def simulate(external: ExternalSection, samples: Labelled, copied: Ints | None = None) -> Ints:
    """Return an annotator's answers [N]: classes, -1 where it abstains.

    Two annotators of one seed but different names err independently. copied: [N] answers of the
    annotator that `simulate.copies` names. Raises `UserError` for a class or domain that does not
    exist, and for wrong answers that the scope does not allow.
    """
    section = external.simulate
    assert section is not None
    assert external.name is not None
    with within("scope"):
        scope = external.scope.resolve(samples.classes, samples.domain_names)
    known = np.isin(np.arange(len(samples.classes)), scope[0] or range(len(samples.classes)))
    inside = np.isin(samples.domains, scope[1] or range(len(samples.domain_names)))
    answered, right, which, copies = _uniform(section.seed, external.name, samples.sample_ids)
    labels = np.maximum(samples.labels, 0)
    inside &= (samples.labels >= 0) & known[labels]
    with within("simulate"):
        accuracy = _accuracies(section, samples, labels)
        wrong, count = _wrong_answers(section, samples.classes, known)
    picked = wrong[labels, (which * count[labels]).astype(np.int64)]
    given = np.where((right < accuracy) | (count[labels] == 0), labels, picked)
    given = np.where(inside & (answered < section.coverage), given, ABSTAIN)
    if section.copies is not None:
        assert copied is not None
        takes = inside & (copied >= 0) & known[np.maximum(copied, 0)]
        given = np.where(takes & (copies < section.copies.share), copied, given)
    return given.astype(np.int64)


def _uniform(seed: int, name: str, sample_ids: Sequence[str]) -> NDArray[np.float64]:
    """Return [4, N] numbers in [0, 1) that depend on the seed, the name and each id alone."""
    start = hashlib.sha256(f"simulated\x1f{seed}\x1f{name}\x1f".encode())
    digests = []
    for sample in sample_ids:
        digest = start.copy()
        digest.update(sample.encode(errors="surrogateescape"))
        digests.append(digest.digest())
    bits = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 4) >> 11
    return np.asarray(bits.T * 2.0**-53, dtype=np.float64)


def _accuracies(section: SimulateSection, samples: Labelled, labels: Ints) -> NDArray[np.float64]:
    """Return the probability [N] that each sample is answered rightly."""
    of_class = np.full(len(samples.classes), section.accuracy)
    for key, accuracy in section.classes.items():
        of_class[_index(key, samples.classes, "class", "classes")] = accuracy
    chosen = of_class[labels]
    for key, accuracy in section.domains.items():
        place = _index(key, samples.domain_names, "domain", "domains")
        chosen[samples.domains == place] = accuracy
    return chosen


def _wrong_answers(
    section: SimulateSection, classes: tuple[str, ...], known: NDArray[np.bool_]
) -> tuple[Ints, Ints]:
    """Return for each true class the wrong answers [C, C], the first `count` [C] of each row."""
    everything = np.arange(len(classes))
    wrong = np.zeros((len(classes), len(classes)), dtype=np.int64)
    count = np.zeros(len(classes), dtype=np.int64)
    confused = _confused(section, classes, known)
    for true in np.flatnonzero(known).tolist():
        others = [confused[true]] if true in confused else everything[known & (everything != true)]
        count[true] = len(others)
        wrong[true, : len(others)] = others
    return wrong, count


def _confused(
    section: SimulateSection, classes: tuple[str, ...], known: NDArray[np.bool_]
) -> dict[int, int]:
    """Return the class that is answered wrongly in place of each class of `confuses`."""
    if section.confuses is None:
        return {}
    if section.confuses == "next":
        inside = np.flatnonzero(known).tolist()
        pairs = zip(inside, [*inside[1:], *inside[:1]], strict=True)
        return {true: wrong for true, wrong in pairs if true != wrong}
    found = {}
    for key, value in section.confuses.items():
        true, wrong = (_index(name, classes, "class", "confuses") for name in (key, value))
        if true == wrong or not known[wrong]:
            reason = "is that class itself" if true == wrong else "is outside its scope"
            raise UserError(f"the wrong answer to '{key}' {reason}", key="confuses", value=value)
        found[true] = wrong
    return found


def _index(name: str, names: tuple[str, ...], kind: str, key: str) -> int:
    if name not in names:
        raise unknown_name(kind, name, names, key=key)
    return names.index(name)


class SimulatedTeacher(SimulatedKind, RowTeacher):
    """Gives the answers of a simulated annotator, by row number of the sample table."""

    def __init__(self, spec: TeacherSpec, answers: Ints, num_classes: int, recipe: str) -> None:
        super().__init__(spec, num_classes, steps=0)
        self.answers = torch.from_numpy(answers)
        self.recipe = recipe

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Make the answers. Raises `UserError` for an unknown class or domain."""
        data, made = training.data, dict[str, Ints]()
        samples = Labelled.of(data)
        return [cls._made(spec, training, samples, made) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Make all of them. Raises `UserError` if no true label of student_train is known, too."""
        truth = training.data.truth(training.data.rows("student_train"))
        check_truth(bool((truth.labels >= 0).any()))
        cls.train(specs, training)

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Make the answers again."""
        return cls.train([spec], training)[0]

    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C] of rows [B] of the sample table: one-hot, 0 to abstain."""
        answers = self.answers[inputs]
        probs = one_hot(answers.clamp_min(0), self.num_classes).float()
        return probs * (answers >= 0)[:, None]

    def origin(self) -> str:
        """Return its settings, and those of the annotators that it copies."""
        return self.recipe

    @classmethod
    def _made(
        cls, spec: TeacherSpec, training: Training, samples: Labelled, made: dict[str, Ints]
    ) -> Teacher:
        """Return a teacher; `made` holds the answers of all annotators made so far."""
        chain = _chain(spec.name, training.section.external)
        for position, external in reversed(chain):
            copies = external.simulate.copies if external.simulate else None
            assert external.name is not None
            if external.name not in made:
                with within(f"teachers.external.{position}"):
                    copied = made[copies.of] if copies else None
                    made[external.name] = simulate(external, samples, copied)
        recipe = json.dumps([external.model_dump(mode="json") for _, external in chain])
        return cls(spec, made[spec.name], len(samples.classes), recipe)


def _chain(name: str, externals: Sequence[ExternalSection]) -> list[tuple[int, ExternalSection]]:
    """Return an annotator, the one that it copies, and so on, with their positions."""
    places = {external.name: place for place, external in enumerate(externals)}
    chain: list[tuple[int, ExternalSection]] = []
    while True:
        external = externals[places[name]]
        chain.append((places[name], external))
        if external.simulate is None or external.simulate.copies is None:
            return chain
        name = external.simulate.copies.of
