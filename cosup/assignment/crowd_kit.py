"""Hard answers aggregated by crowd-kit: one-coin Dawid-Skene, MACE, GLAD, Wawa, zero-based skill.

Ustalov, Pavlichenko and Tseitlin, "Learning from Crowds with Crowd-Kit", JOSS 2024, arXiv
2109.08584 (the library, an extra of cosup); METHODS.md section 5 has the source of each method.

A teacher's answer is its most probable class. crowd-kit estimates how far each teacher can be
trusted and the posterior of each sample, from all answers at once: it tells nothing of other
samples. Those get the posterior of the one-coin model, with the accuracies that the posterior gives
to the teachers.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cosup.assignment.base import SummingAssigner, available, to_weights
from cosup.assignment.em import EPSILON, answered
from cosup.assignment.parts import Parts, Whole
from cosup.errors import UserError
from cosup.evidence import Assigned, Evidence, Scopes
from cosup.settings.assigners import CrowdKitSettings

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 2**27
"""Values of the posterior [N, C] of all samples: 1 GiB for each of crowd-kit's copies."""
MOST_BYTES = 2**32
"""Bytes that crowd-kit takes at most for samples in several parts."""
BYTES = {
    "one_coin": (150, 39),
    "mace": (154, 15),
    "glad": (450, 234),
    "wawa": (186, 7),
    "zero_based_skill": (170, 10),
}
"""Bytes that crowd-kit takes by method: for each answer, of a teacher to a sample, and for each
class of an answer (measured on 60,000 labels of Fashion-MNIST and up to 100 classes)."""


@dataclass
class CrowdKit(CrowdKitSettings, SummingAssigner):
    """Assign the posterior that an aggregator of crowd-kit gives each sample."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.posterior_: Tensor | None = None
        """[N, C] float32: of the samples of the fit, rows of zeros where no teacher answers; None
        for other samples."""
        self.accuracy_: Tensor | None = None
        """[T] float32: the mean probability of a teacher's answers in the posterior."""
        self.prior_: Tensor | None = None
        """[C] float32: the mean posterior."""

    def check(self, scopes: Scopes) -> None:
        """Raise `UserError` where crowd-kit is not installed."""
        if find_spec("crowdkit") is None:
            raise UserError(
                "assigner crowd_kit: needs crowd-kit, which is not installed (pip install "
                "'cosup[crowd]')"
            )

    def check_parts(self, samples: int, scopes: Scopes) -> None:
        """Raise `UserError` for samples in several parts for which crowd-kit would take more than
        `MOST_BYTES` with this method."""
        teachers, classes = scopes.classes.shape
        most = MOST_BYTES // (teachers * answer_bytes(self.method, classes))
        if samples > most:
            raise UserError(
                f"assigner crowd_kit: holds the answers to all samples, in shards at most {most:,} "
                f"with {teachers} teachers, {classes} classes and the method {self.method}, and "
                f"there are {samples:,}; use dawid_skene (a matrix per teacher, where one_coin has "
                "an accuracy)"
            )

    def fit_parts(
        self,
        parts: Parts,
        scopes: Scopes,
        *,
        seed: int = 0,
        provenance: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Aggregate the answers to all samples, which are held here.

        The seed starts MACE. Raises `UserError` without an answer, without crowd-kit, for more than
        2^27 probabilities, and as `check_parts`.
        """
        self.check(scopes)
        found, samples, classes = list[Tensor](), 0, scopes.classes.shape[1]
        for labels in parts.each(answers_of):
            found.append(labels)
            samples += len(labels)
            if not isinstance(parts, Whole):
                self.check_parts(samples, scopes)
        labels = torch.cat(found).long() if samples else torch.empty(0, len(scopes)).long()
        del found
        if not bool((labels >= 0).any()):
            raise UserError("assigner crowd_kit: there is no annotated sample to learn from")
        if len(labels) * classes > MOST_VALUES:
            raise UserError(
                f"assigner crowd_kit: holds {classes} probabilities for each of {len(labels):,} "
                f"samples, more than {MOST_VALUES:,}; use dawid_skene"
            )
        self.posterior_ = aggregated(labels, classes, self.method, seed)
        said = labels >= 0
        given = self.posterior_.gather(1, labels.clamp_min(0)) * said
        self.accuracy_ = given.sum(0) / said.sum(0).clamp_min(1)
        total = self.posterior_.sum(0)
        self.prior_ = total / total.sum()

    def weights(self, evidence: Evidence, scopes: Scopes) -> Tensor:
        """Return weights [N, T], in proportion to the probability of a teacher's answer and the
        teacher's accuracy; raise `UserError` before `fit`."""
        return self.assign(evidence, scopes).weights

    def assign(self, evidence: Evidence, scopes: Scopes) -> Assigned:
        """Return the posterior [N, C] (all zero where no teacher answers) and the weights [N, T].

        Raises `UserError` before `fit`.
        """
        if self.accuracy_ is None:
            raise UserError("assigner crowd_kit: call 'fit' or 'load_state_dict' first")
        annotations = evidence.annotations
        labels = answered(annotations)
        if self.posterior_ is None:
            posterior = self._elsewhere(labels)
        else:
            index = evidence.indices().to(self.posterior_.device)
            posterior = self.posterior_[index].to(annotations)
        right = posterior.gather(1, labels.clamp_min(0)) * self.accuracy_.to(annotations)
        scores = right.clamp_min(EPSILON).log()
        return Assigned(to_weights(scores, available(annotations), hard=False), posterior)

    def elsewhere(self) -> "CrowdKit":
        """Return the assigner of other samples, which knows the teachers' accuracies alone."""
        other = replace(self)
        other.accuracy_, other.prior_ = self.accuracy_, self.prior_
        return other

    def state_dict(self) -> dict[str, Tensor]:
        """Return the posterior [N, C], accuracies [T] and prior [C]; empty before `fit`."""
        named = {"posterior": self.posterior_, "accuracy": self.accuracy_, "prior": self.prior_}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state returned by `state_dict`."""
        self.posterior_ = state.get("posterior")
        self.accuracy_, self.prior_ = state.get("accuracy"), state.get("prior")

    def _elsewhere(self, labels: Tensor) -> Tensor:
        """Return the posterior [n, C] of the one-coin model for answers [n, T]."""
        assert self.accuracy_ is not None
        assert self.prior_ is not None
        accuracy = self.accuracy_.to(labels.device).clamp(EPSILON, 1 - 1e-6)
        prior = self.prior_.to(labels.device)
        others = max(len(prior) - 1, 1)
        gain = accuracy.log() - ((1 - accuracy) / others).log()
        said = labels >= 0
        joint = prior.clamp_min(EPSILON).log().repeat(len(labels), 1)
        joint.scatter_add_(1, labels.clamp_min(0), gain * said)
        return joint.softmax(1) * said.any(1, keepdim=True)


def answer_bytes(method: str, classes: int) -> int:
    """Return the bytes that crowd-kit takes for each answer of a teacher to a sample."""
    answer, of_class = BYTES[method]
    return answer + of_class * classes


def answers_of(batches: Iterable[Evidence], number: int) -> Tensor:
    """Return the most probable classes [n, T] int16 of a part, -1 for abstentions; int32 of very
    many classes. [0] without samples."""
    found = [torch.empty(0, dtype=torch.int16)]
    for evidence in batches:
        many = evidence.annotations.shape[2] > torch.iinfo(torch.int16).max
        found.append(answered(evidence.annotations).cpu().to(torch.int32 if many else torch.int16))
    return torch.cat([one for one in found if len(one)] or found[:1])


def aggregated(labels: Tensor, classes: int, method: str, seed: int) -> Tensor:
    """Return crowd-kit's posterior [N, C] float32 for answers [N, T] int64, -1 for none.

    Rows of zeros where no teacher answers. The teachers' order does not matter.
    """
    import pandas as pd

    posterior = torch.zeros(len(labels), classes)
    given = labels[labels >= 0]
    if bool((given == given[0]).all()):  # crowd-kit's models need two classes
        posterior[(labels >= 0).any(1), int(given[0])] = 1.0
        return posterior
    # MACE takes workers and labels in the order in which they come for their sorted order, and
    # starts by their number: so they come sorted, and their order is one of their answers.
    columns = [column.numpy() for column in labels.T]
    first = [int(c[c >= 0].min()) if (c >= 0).any() else classes for c in columns]
    order = sorted(range(len(columns)), key=lambda t: (first[t], columns[t].tobytes()))
    task, worker = (labels[:, order] >= 0).nonzero().T
    frame = pd.DataFrame(
        {
            "task": task.numpy(),
            "worker": worker.numpy(),
            "label": labels[:, order][task, worker].numpy(),
        }
    )
    frame = frame.sort_values(["label", "worker", "task"], ignore_index=True)
    found = AGGREGATORS[method](frame, seed)
    rows, columns_of = found.index.to_numpy(), found.columns.to_numpy()
    values = torch.from_numpy(found.to_numpy(dtype="float32", copy=True))
    posterior[torch.from_numpy(rows.copy())[:, None], torch.from_numpy(columns_of.copy())] = values
    return posterior / posterior.sum(1, keepdim=True).clamp_min(EPSILON)


def _library() -> Any:
    return importlib.import_module("crowdkit.aggregation.classification")


def _mace(frame: "pd.DataFrame", seed: int) -> Any:
    # All restarts of crowd-kit 1.4 draw the same start, so one is as good as ten.
    return _library().MACE(n_restarts=1, random_state=seed % 2**32).fit_predict_proba(frame)


def _weighted(name: str) -> Callable[["pd.DataFrame", int], Any]:
    """Return an aggregator by a vote that is weighted by skills.

    `predict_proba` of these classes of crowd-kit 1.4 fails with scikit-learn 1.7.
    """

    def vote(frame: "pd.DataFrame", seed: int) -> Any:
        skills = getattr(_library(), name)().fit(frame).skills_
        return _library().MajorityVote().fit_predict_proba(frame, skills=skills)

    return vote


AGGREGATORS: dict[str, Callable[["pd.DataFrame", int], Any]] = {
    "one_coin": lambda frame, seed: _library().OneCoinDawidSkene().fit_predict_proba(frame),
    "mace": _mace,
    "glad": lambda frame, seed: _library().GLAD().fit_predict_proba(frame),
    "wawa": _weighted("Wawa"),
    "zero_based_skill": _weighted("ZeroBasedSkill"),
}
"""Methods by name: from answers in columns task, worker, label to a posterior per task."""
