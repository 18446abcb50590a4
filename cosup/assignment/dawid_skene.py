"""Dawid-Skene: a confusion matrix per teacher, estimated by EM without true labels.

Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm",
1979; METHODS.md section 5. Soft annotations count for each class by its probability. The prior of a
sample can be the student's prediction instead of the frequencies of the classes
(`student_prior: true`). It is taken as it is, and a student that is surer than right then outvotes
the teachers: on three degraded sites it left 64.0 % of the annotations right, where 79.3 % are
without it (METHODS.md section 8). `fused` weighs the student by how far it can be trusted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import SummingAssigner, available, to_weights
from cosup.assignment.em import (
    EPSILON,
    answered,
    converge,
    count_hard,
    count_soft,
    log_rates_of,
    look_up,
    mean_vote,
    rates_of,
)
from cosup.assignment.parts import Parts, Sums, total_of
from cosup.errors import UserError
from cosup.evidence import Evidence, Scopes
from cosup.settings.assigners import DawidSkeneSettings


@dataclass
class DawidSkene(DawidSkeneSettings, SummingAssigner):
    """Assign each sample to the teacher that is most probably right.

    With p(c | x) the posterior of the true class and P_t(c | c) the probability that teacher t
    answers c when c is true, the weight of teacher t is proportional to
    sum_c p(c | x) a_t(c) P_t(c | c), where a_t is its annotation. Abstentions do not count.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.confusion_: Tensor | None = None
        """[T, C, C] float32: P(teacher t answers j | true class c) at [t, c, j]."""
        self.prior_: Tensor | None = None
        """[C] float32: the frequencies of the true classes."""
        self._log_rates: Tensor | None = None
        """log P(teacher t answers j | c) at [t, j, c], as the E-step reads it."""

    def fit_parts(
        self,
        parts: Parts,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Fit by EM from the mean vote of the teachers, by sums over the parts in every step.

        The vote is averaged with the student's prediction if that is the prior. Raises `UserError`
        without samples.
        """

        def collect() -> Sums | None:
            return total_of(parts.each(AddUp(self)))

        self.confusion_ = self.prior_ = self._log_rates = None
        self._learn(collect())
        before = -torch.inf

        def step() -> float:
            nonlocal before
            # Only the log-rates are read now, and matrices of many classes and teachers are large.
            self.confusion_ = None
            posterior = self._learn(collect())
            gain, before = posterior - before, posterior
            return gain

        converge(step, self.iterations, self.tolerance)

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T], one-hot if hard; raise `UserError` before `fit`."""
        annotations = evidence.annotations
        if self.confusion_ is None:
            raise UserError("assigner dawid_skene: call 'fit' or 'load_state_dict' first")
        right = self.confusion_.diagonal(dim1=1, dim2=2).to(annotations.device)
        votes = self._votes(annotations)
        posterior = self.posterior(evidence)
        scores = torch.einsum("nc,ntc,tc->nt", posterior, votes, right)
        return to_weights(scores.clamp_min(EPSILON).log(), available(annotations), self.hard)

    def posterior(self, evidence: Evidence) -> Tensor:
        """Return p(true class | annotations, prior) [N, C]; the prior if all teachers abstain."""
        return self._joint(evidence).softmax(1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the confusion matrices [T, C, C] and class frequencies [C]; empty before `fit`."""
        if self.confusion_ is None or self.prior_ is None:
            return {}
        return {"confusion": self.confusion_, "prior": self.prior_}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`."""
        if state:
            self._set_state(state["confusion"], state["prior"])

    def _set_state(self, confusion: Tensor, prior: Tensor) -> None:
        self.confusion_, self.prior_ = confusion, prior
        self._log_rates = torch.empty_like(confusion)
        for into, rates in zip(self._log_rates, confusion, strict=True):
            into.copy_(log_rates_of(rates.T))

    def _learned(self) -> tuple[Tensor, Tensor]:
        """Return the frequencies [C] and log-rates [T, C, C] that the E-step reads."""
        if self.prior_ is None or self._log_rates is None:
            raise UserError("assigner dawid_skene: call 'fit' or 'load_state_dict' first")
        return self.prior_, self._log_rates

    def _votes(self, annotations: Tensor) -> Tensor:
        """Return votes [N, T, C] whose rows sum to 1, or to 0 where the teacher abstains."""
        if self.annotations == "soft":
            return annotations
        votes = torch.zeros_like(annotations)
        votes.scatter_(2, annotations.argmax(2, keepdim=True), 1.0)
        return votes * (annotations.sum(2, keepdim=True) > 0)

    def _joint(self, evidence: Evidence) -> Tensor:
        """Return log p(annotations, c) [N, C]."""
        student_probs, annotations = evidence.student_probs, evidence.annotations
        prior, log_rates = self._learned()
        log_rates = log_rates.to(annotations.device)
        first = student_probs if self.student_prior else prior[None].to(student_probs.device)
        joint = first.clamp_min(EPSILON).log()
        if self.annotations == "soft":
            return joint + annotations.flatten(1) @ log_rates.flatten(0, 1)
        # With one class per teacher, indexing is C times cheaper than a product.
        joint = joint.expand(len(annotations), -1).clone()
        for rows, labels in zip(log_rates, answered(annotations).T, strict=True):
            joint += look_up(rows, labels)
        return joint

    def sums(self, batches: Iterable[Evidence]) -> Sums | None:
        """Run the E-step of what is learned so far; return its sums, None without samples.

        Their counts are [T, C, C], of teacher t answering j when c is true at [t, j, c].
        """
        counts: Tensor | None = None
        samples, likelihood, frequency = 0, 0.0, torch.zeros(())
        for evidence in batches:
            posterior, log_evidence = self._expect(evidence)
            counts = self._count(evidence.annotations, posterior, counts)
            frequency = posterior.sum(0, dtype=torch.float64) + frequency.to(posterior.device)
            likelihood += log_evidence
            samples += len(evidence)
        return None if counts is None else Sums(counts, frequency, likelihood, samples)

    def _learn(self, found: Sums | None) -> float:
        """Run the M-step, which uses up the sums; return the log-posterior of the parameters
        before it, per sample.

        EM with smoothed counts climbs the posterior, up to a constant, while the likelihood alone
        can fall (Dempster, Laird and Rubin, 1977, section 3).
        """
        if found is None or not found.samples:
            raise UserError("assigner dawid_skene: there is no sample to learn from")
        posterior = (found.likelihood + self._log_prior()) / found.samples
        self._log_rates = None
        counts, found.counts = found.counts, found.counts[:0]
        confusion = _confusion(counts.add_(self.smoothing))
        del counts
        self._set_state(confusion, (found.frequency / found.samples).float())
        return posterior

    def _log_prior(self) -> float:
        """Return the log-density of the confusion matrices under the Dirichlet prior to which
        `smoothing` amounts (each parameter 1 + smoothing), up to a constant; 0 before the first."""
        if self._log_rates is None or not self.smoothing:
            return 0.0
        return self.smoothing * float(self._log_rates.sum(dtype=torch.float64))

    def _expect(self, evidence: Evidence) -> tuple[Tensor, float]:
        """Return the posterior [n, C] (at first the mean vote) and the batch's log-likelihood."""
        if self._log_rates is not None:
            joint = self._joint(evidence)
            return joint.softmax(1), float(joint.logsumexp(1).sum(dtype=torch.float64))
        vote = mean_vote(self._votes(evidence.annotations).sum(1))
        return (vote + evidence.student_probs) / 2 if self.student_prior else vote, 0.0

    def _count(self, annotations: Tensor, posterior: Tensor, counts: Tensor | None) -> Tensor:
        """Add the expected counts of teacher t answering j when c is true at [t, j, c]."""
        _, teachers, classes = annotations.shape
        if counts is None:
            counts = posterior.new_zeros(teachers, classes, classes, dtype=torch.float64)
        if self.annotations == "soft":
            count_soft(counts, annotations, posterior)
        else:
            count_hard(counts, answered(annotations), posterior)
        return counts


@dataclass(frozen=True)
class AddUp:
    """The sums of an E-step over a part of the samples."""

    assigner: DawidSkene

    def __call__(self, batches: Iterable[Evidence], number: int) -> Sums | None:
        """Return the sums; None of a part without samples."""
        return self.assigner.sums(batches)


def _confusion(counts: Tensor) -> Tensor:
    """Return [T, C, C] float32, P(teacher t answers j | c) at [t, c, j], from counts [T, j, c]."""
    confusion = torch.empty(counts.shape, device=counts.device)
    for into, count in zip(confusion, counts, strict=True):
        into.copy_(rates_of(count[None])[0].T)
    return confusion
