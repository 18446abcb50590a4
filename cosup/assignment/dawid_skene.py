"""Dawid and Skene (1979), "Maximum likelihood estimation of observer error-rates using the EM
algorithm": a confusion matrix per teacher, estimated without true labels.

With soft annotations a teacher's vote counts for each class by its probability; with the student's
prediction as the prior of each sample, the student speaks too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cosup.assignment.base import Assigner, available, to_weights
from cosup.errors import UserError
from cosup.evidence import Batches, Evidence, Scopes, Truth
from cosup.settings.assigners import DawidSkeneSettings

EPSILON = 1e-10
"""The smallest probability that a logarithm is taken of."""


@dataclass
class DawidSkene(DawidSkeneSettings, Assigner):
    """The teacher whose annotation is most probably right, by everybody's confusion matrices.

    With p(c | x) the posterior of the true class and P_t(c | c) how often teacher t names class c
    when it is true, teacher t's weight is proportional to sum_c p(c | x) a_t(c) P_t(c | c): the
    probability that its annotation a_t is right, and not by luck. Abstentions are no vote.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.confusion_: Tensor | None = None
        """[T, C, C] float32: P(teacher t says j | the true class is c) at [t, c, j]."""
        self.prior_: Tensor | None = None
        """[C] float32: the frequency of each true class."""
        self._by_vote: Tensor | None = None
        """log P(teacher t says j | c) at [t, j, c]: what every E-step reads."""

    def fit(
        self,
        batches: Batches,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """EM from the teachers' vote, averaged with the student's prediction if it is the prior."""
        self.confusion_ = self.prior_ = None
        self._sweep(batches)
        before = -torch.inf
        for _ in range(self.iterations):
            likelihood = self._sweep(batches)
            if likelihood - before < self.tolerance:
                break
            before = likelihood

    def assign(
        self,
        student_probs: Tensor,
        annotations: Tensor,
        features: Tensor | None,
        scopes: Scopes,
        *,
        truth: Truth | None = None,
    ) -> Tensor:
        """Weights [N, T] (one-hot when hard)."""
        confusion, _, _ = self._learned()
        right = confusion.diagonal(dim1=1, dim2=2).to(annotations.device)
        votes = self._votes(annotations)
        posterior = self.posterior(student_probs, annotations)
        scores = torch.einsum("nc,ntc,tc->nt", posterior, votes, right)
        return to_weights(scores.clamp_min(EPSILON).log(), available(annotations), self.hard)

    def posterior(self, student_probs: Tensor, annotations: Tensor) -> Tensor:
        """p(true class | annotations, prior) [N, C]; the prior alone where all teachers abstain."""
        return self._joint(student_probs, annotations).softmax(1)

    def state_dict(self) -> dict[str, Tensor]:
        """The confusion matrices [T, C, C] and the classes' frequencies [C]; empty before `fit`."""
        if self.confusion_ is None or self.prior_ is None:
            return {}
        return {"confusion": self.confusion_, "prior": self.prior_}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the state that `state_dict` gave."""
        if state:
            self._take_up(state["confusion"], state["prior"])

    def _take_up(self, confusion: Tensor, prior: Tensor) -> None:
        self.confusion_, self.prior_ = confusion, prior
        by_vote = confusion.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        self._by_vote = by_vote.clamp_min_(EPSILON).log_()

    def _learned(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.confusion_ is None or self.prior_ is None or self._by_vote is None:
            raise UserError("assigner dawid_skene: call 'fit' or 'load_state_dict' first")
        return self.confusion_, self.prior_, self._by_vote

    def _votes(self, annotations: Tensor) -> Tensor:
        """[N, T, C]: each row sums to 1, or to 0 where the teacher abstains."""
        if self.annotations == "soft":
            return annotations
        votes = torch.zeros_like(annotations)
        votes.scatter_(2, annotations.argmax(2, keepdim=True), 1.0)
        return votes * (annotations.sum(2, keepdim=True) > 0)

    def _joint(self, student_probs: Tensor, annotations: Tensor) -> Tensor:
        """log p(annotations, c) [N, C]."""
        _, prior, by_vote = self._learned()
        by_vote = by_vote.to(annotations.device)
        first = student_probs if self.student_prior else prior[None].to(student_probs.device)
        joint = first.clamp_min(EPSILON).log()
        if self.annotations == "soft":
            return joint + annotations.flatten(1) @ by_vote.flatten(0, 1)
        # One label per teacher: looking rows up costs C times less than multiplying.
        joint = joint.expand(len(annotations), -1).clone()
        for teacher, rows in enumerate(by_vote):
            sureness, said = annotations[:, teacher].max(1)
            joint += rows[said] * (sureness > 0)[:, None]
        return joint

    def _sweep(self, batches: Batches) -> float:
        """One E-step and M-step over all samples; the mean log-likelihood before the M-step."""
        counts: Tensor | None = None
        samples, likelihood, frequency = 0, 0.0, torch.zeros(())
        for evidence in batches:
            posterior, log_evidence = self._expect(evidence)
            counts = self._count(evidence.annotations, posterior, counts)
            frequency = posterior.sum(0, dtype=torch.float64) + frequency.to(posterior.device)
            likelihood += log_evidence
            samples += len(evidence)
        if counts is None or not samples:
            raise UserError("assigner dawid_skene: there is no sample to learn from")
        rates = _rates(counts.add_(self.smoothing))
        self._take_up(rates.transpose(1, 2).contiguous(), (frequency / samples).float())
        return likelihood / samples

    def _expect(self, evidence: Evidence) -> tuple[Tensor, float]:
        """The posterior [n, C] and the batch's log-likelihood; a vote before the first M-step."""
        if self.confusion_ is not None:
            joint = self._joint(evidence.student_probs, evidence.annotations)
            return joint.softmax(1), float(joint.logsumexp(1).sum(dtype=torch.float64))
        votes = self._votes(evidence.annotations).sum(1)
        voters = votes.sum(1, keepdim=True)
        blank = torch.full_like(votes, 1 / votes.shape[1])
        vote = torch.where(voters > 0, votes / voters.clamp_min(EPSILON), blank)
        return (vote + evidence.student_probs) / 2 if self.student_prior else vote, 0.0

    def _count(self, annotations: Tensor, posterior: Tensor, counts: Tensor | None) -> Tensor:
        """Add to counts [T, C, C] how often (by the posterior) t said j when c, at [t, j, c]."""
        _, teachers, classes = annotations.shape
        if counts is None:
            counts = posterior.new_zeros(teachers, classes, classes, dtype=torch.float64)
        if self.annotations == "soft":
            counts.view(-1, classes).add_(annotations.flatten(1).T @ posterior)
            return counts
        posterior = posterior.to(torch.float64)
        for teacher, into in enumerate(counts):
            sureness, said = annotations[:, teacher].max(1)
            into.index_add_(0, said, posterior * (sureness > 0)[:, None])
        return counts


def _rates(counts: Tensor) -> Tensor:
    """P(t says j | c) float32 at [t, j, c]; even where nobody ever held c for true."""
    total = counts.sum(1, keepdim=True)
    even = torch.full_like(total, 1 / counts.shape[1])
    return torch.where(total > 0, counts / total, even).float()
