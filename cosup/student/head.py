"""A student that is a head on frozen features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cosup.config.schema import StudentSection
from cosup.losses.base import Objective
from cosup.models.compute import Compute
from cosup.models.fit import OnStep, predict_heads
from cosup.models.heads import HeadBank, head_bank, text_heads
from cosup.probabilities import ProbTable
from cosup.protocols import (
    Guidance,
    Inputs,
    PartPredictor,
    Student,
    TestInputs,
    by_fold,
)
from cosup.seeds import seed_for
from cosup.student.jobs import HeadJob, Launcher, LocalLauncher


class HeadStudent(Student):
    """Inputs are features [N, D], float16 or float32, memory-mapped or not.

    With `cross_fit` folds, one head per fold is trained beside the student, on the samples outside
    the fold, and predicts those inside it: no sample is judged by a student that saw its target.
    prototypes: [C, D] text features that every fit starts from and that predict before the first;
    None starts as the head's section says. launcher: who fits; None is this process.
    """

    def __init__(
        self,
        section: StudentSection,
        num_classes: int,
        objective: Objective,
        *,
        seed: int,
        device: torch.device,
        folds: Tensor | None = None,
        prototypes: Tensor | None = None,
        on_step: OnStep | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        assert (folds is not None) == (section.cross_fit > 0)
        self.section = section
        self.num_classes = num_classes
        self.objective = objective
        self.seed = seed
        self.device = device
        self.folds = folds
        self.on_step = on_step
        self.launcher = launcher or LocalLauncher()
        self.start = None if prototypes is None else text_heads(section.head, prototypes)
        self.bank_ = self.start

    def update(
        self,
        inputs: Inputs,
        targets: ProbTable,
        weights: Tensor,
        guidance: Guidance | None = None,
    ) -> None:
        """Fit the head, and one head per fold, in one batched loop."""
        rows = torch.nonzero(weights > 0)[:, 0]
        members = [rows]
        for fold in range(self.section.cross_fit):
            assert self.folds is not None
            members.append(rows[self.folds[rows] != fold])
        labels = None if guidance is None else guidance.labels
        self.bank_ = self._fit(inputs, targets, members, weights, labels, "update", self.on_step)

    def predict(self, inputs: TestInputs) -> ProbTable:
        """Class probabilities of samples it did not train on."""
        compute = Compute(self.device)
        return predict_heads(self._bank().select(0), _features(inputs), compute)[0]

    def predict_own(self, inputs: Inputs) -> ProbTable:
        """Class probabilities of its training samples; each by its fold's head if cross-fitted."""
        if self.folds is None:
            return self.predict(inputs)
        bank, features = self._bank(), _features(inputs)
        return by_fold(
            self.folds,
            self.section.cross_fit,
            lambda fold, rows: predict_heads(bank.select(1 + fold), features[rows])[0],
        )

    def fit_parts(
        self, inputs: Inputs, targets: ProbTable, members: Sequence[Tensor]
    ) -> "HeadParts":
        """One head per set of rows, fitted together."""
        ones = torch.ones(len(targets))
        return HeadParts(self._fit(inputs, targets, list(members), ones, None, "parts", None))

    def state_dict(self) -> dict[str, Tensor]:
        """The head's tensors."""
        return {name: value.cpu() for name, value in self._bank().select(0).state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a head's tensors; `update` then goes on from it."""
        self.bank_ = head_bank(state)
        self.start = self.bank_

    def _bank(self) -> HeadBank:
        assert self.bank_ is not None, "predict before update"
        return self.bank_

    def _fit(
        self,
        inputs: Inputs,
        targets: ProbTable,
        members: list[Tensor],
        weights: Tensor,
        labels: Tensor | None,
        use: str,
        on_step: OnStep | None,
    ) -> HeadBank:
        training = self.section.training
        job = HeadJob(
            _features(inputs),
            targets,
            members,
            self.section.head,
            training,
            self.objective,
            seed_for(self.seed, use),
            weights,
            labels,
            self.start,
            # Counted on all samples: rejecting some must not shorten the training (CSL).
            training.total_steps(len(targets)),
        )
        return self.launcher.heads(job, self.device, on_step)


class HeadParts(PartPredictor):
    """Heads fitted together, one per set of rows."""

    def __init__(self, bank: HeadBank) -> None:
        self.bank = bank

    def predict(self, part: int, inputs: Inputs) -> ProbTable:
        """Class probabilities by the head of this set."""
        return predict_heads(self.bank.select(part), _features(inputs))[0]


def _features(inputs: TestInputs) -> Tensor:
    assert isinstance(inputs, Tensor), "a head reads features"
    return inputs
