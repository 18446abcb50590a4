"""A student that is a head on frozen features."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cosup.losses.base import Objective
from cosup.models.fit import predict_heads
from cosup.models.heads import HeadBank, head_bank, text_heads
from cosup.models.learnt_prompts import LearntPrompts
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance, Inputs, PartPredictor, Student, TestInputs, Update, by_fold
from cosup.seeds import seed_for
from cosup.student.jobs import HeadJob
from cosup.student.setup import StudentSetup


class HeadStudent(Student):
    """A head that is fitted to features [N, D], float16 or float32, memory-mapped or not.

    With `cross_fit` folds, one more head per fold is fitted to the samples outside the fold, and
    predicts those inside it: no sample is predicted by a head that was fitted to its target.
    prototypes: [C, D] text features that every fit starts from, and that predict before the first
    fit; None starts from the initialisation that `student.head` sets. prompts: that every fit
    learns in place of prototypes, or None.
    """

    def __init__(
        self,
        setup: StudentSetup,
        objective: Objective,
        seed: int,
        prototypes: Tensor | None = None,
        prompts: LearntPrompts | None = None,
    ) -> None:
        self.setup = setup
        self.objective = objective
        self.seed = seed
        self.prompts = prompts
        self.start = None if prototypes is None else text_heads(setup.section.head, prototypes)
        self.bank_ = self.start

    def update(
        self,
        inputs: Inputs,
        targets: ProbTable,
        weights: Tensor,
        guidance: Guidance | None = None,
    ) -> None:
        """Fit the head, and one head per fold, in one batched loop."""
        job = self._update_job(Update(self, inputs, targets, weights, guidance))
        self.bank_ = self.setup.launcher.heads(job, self.setup.compute, self.setup.on_step)

    @classmethod
    def update_together(cls, updates: Sequence[Update]) -> None:
        """Fit the heads of several students of a run; those that draw equal batches share a loop.

        Steps are reported of the first student.
        """
        students = [each.student for each in updates if isinstance(each.student, HeadStudent)]
        assert 0 < len(students) == len(updates)
        setup = students[0].setup
        jobs = [s._update_job(update) for s, update in zip(students, updates, strict=True)]
        banks = setup.launcher.heads_together(jobs, setup.compute, setup.on_step)
        for student, bank in zip(students, banks, strict=True):
            student.bank_ = bank

    def predict(self, inputs: TestInputs) -> ProbTable:
        """Predict class probabilities of samples it was not fitted to."""
        return predict_heads(self._bank().select(0), _head_inputs(inputs), self.setup.compute)[0]

    def predict_own(self, inputs: Inputs) -> ProbTable:
        """Predict class probabilities of its training samples, each by its fold's head if
        cross-fitted."""
        folds = self.setup.folds
        if folds is None:
            return self.predict(inputs)
        bank, features = self._bank(), _head_inputs(inputs)
        return by_fold(
            folds[: len(inputs)],
            self.setup.fold_count,
            lambda fold, rows: predict_heads(bank.select(1 + fold), features[rows])[0],
        )

    def fit_parts(
        self, inputs: Inputs, targets: ProbTable, members: Sequence[Tensor]
    ) -> "HeadParts":
        """Fit one head per set of rows, all of them together."""
        job = self._job(inputs, targets, members, torch.ones(len(targets)), "parts")
        return HeadParts(self.setup.launcher.heads(job, self.setup.compute, None))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the head's tensors."""
        return {name: value.cpu() for name, value in self._bank().select(0).state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a head's tensors; the next `update` starts from them."""
        self.bank_ = head_bank(state)
        self.start = self.bank_

    def _bank(self) -> HeadBank:
        assert self.bank_ is not None, "predict before update"
        return self.bank_

    def _update_job(self, update: Update) -> HeadJob:
        rows = torch.nonzero(update.weights > 0)[:, 0]
        members = [rows, *self.setup.outside_folds(rows)]
        job = self._job(update.inputs, update.targets, members, update.weights, "update")
        labels = None if update.guidance is None else update.guidance.labels
        return replace(job, labels=labels, watched=self.setup.watched, recorded=self.setup.recorded)

    def _job(
        self,
        inputs: Inputs,
        targets: ProbTable,
        members: Sequence[Tensor],
        weights: Tensor,
        purpose: str,
    ) -> HeadJob:
        section = self.setup.section
        return HeadJob(
            features=_head_inputs(inputs),
            targets=targets,
            members=list(members),
            head=section.head,
            training=section.training,
            objective=self.objective,
            seed=seed_for(self.seed, purpose),
            weights=weights,
            init=self.start,
            prompts=self.prompts,
            # Counted on all samples: rejected samples must not shorten the training (CSL).
            steps=section.training.total_steps(len(targets)),
        )


class HeadParts(PartPredictor):
    """Heads that were fitted together, one per set of rows."""

    def __init__(self, bank: HeadBank) -> None:
        self.bank = bank

    def predict(self, part: int, inputs: Inputs) -> ProbTable:
        """Predict class probabilities with the head of one set."""
        return predict_heads(self.bank.select(part), _head_inputs(inputs))[0]


def _head_inputs(inputs: TestInputs) -> Tensor:
    assert isinstance(inputs, Tensor), "a head reads features"
    return inputs
