"""Local-global consistency (Liu and Alahi, "Co-Supervised Learning", arXiv 2402.15505).

The published code does not define it; METHODS.md section 1 has cosup's definition. The global
student is trained on all kept samples, a local one on those assigned to one teacher only; an
annotation is rejected where the two disagree. Alternatively, the annotated class is compared with
the student trained on the level above.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.consistency.base import Filter, Measures, PartTrainer, required, within_top
from cosup.evidence import Assigned, Evidence
from cosup.levels import Assignment, Stream
from cosup.probabilities import ProbTable
from cosup.settings.filters import LARGEST_DIVERGENCE, LocalGlobalSettings


@dataclass
class LocalGlobal(LocalGlobalSettings, Filter):
    """Keep annotations on which a student of part of the samples and a broader one agree."""

    def prepare(
        self, stream: Stream, assignment: Assignment, kept: Tensor, trainer: PartTrainer
    ) -> Stream:
        """Add the predictions of the global and local students, unless they are there."""
        if stream.global_probs is not None:
            return stream
        return with_part_students(stream, assignment, kept, trainer)

    def measure(self, evidence: Evidence, assigned: Assigned) -> Measures:
        """Return `consistent` [n] bool; False where the assigned teachers abstain.

        A sample without a local student (its row of local_probs is all zero) is consistent.
        """
        labels = assigned.labels
        if self.against == "coarser":
            coarse = required(evidence, "coarse_probs", "local_global")
            return {"consistent": within_top(coarse, labels, self.k)}
        local = required(evidence, "local_probs", "local_global")
        broad = required(evidence, "global_probs", "local_global")
        if self.divergence is None:
            agree = local.argmax(1) == broad.argmax(1)
        else:
            agree = jensen_shannon(local, broad) <= self.divergence
        return {"consistent": (agree | (local.sum(1) <= 0)) & (labels >= 0)}

    def decide(self, measures: Measures) -> Tensor:
        """Return keep [N] bool."""
        return measures["consistent"]


def with_part_students(
    stream: Stream, assignment: Assignment, kept: Tensor, trainer: PartTrainer
) -> Stream:
    """Return the stream with the predictions of the global student and of the local ones.

    The local student of a sample is that of the teacher with the most weight on it. All students
    are trained together. A teacher without a kept sample has no local student; the global one is
    used.
    """
    teacher = assignment.weights.argmax(1)
    if len(torch.unique(teacher)) == 1:
        # The local student would be the global one: there is nothing to train or to disagree on.
        return replace(stream, global_probs=assignment.targets, local_probs=assignment.targets)
    members = [torch.nonzero(kept)[:, 0]]
    parts = {}
    for t in range(assignment.weights.shape[1]):
        rows = torch.nonzero(kept & (teacher == t))[:, 0]
        if 0 < len(rows) < len(members[0]):
            parts[t] = len(members)
            members.append(rows)
    students, inputs = trainer.fit(members), trainer.inputs
    global_probs = students.predict(0, inputs)
    order, tables = [], []
    for t in range(assignment.weights.shape[1]):
        rows = torch.nonzero(teacher == t)[:, 0]
        if len(rows):
            order.append(rows)
            local = t in parts
            tables.append(
                students.predict(parts[t], inputs[rows]) if local else global_probs.take(rows)
            )
    local_probs = ProbTable.concat(tables).take(torch.argsort(torch.cat(order)))
    return replace(stream, global_probs=global_probs, local_probs=local_probs)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence [N] in nats, in 0 .. ln 2, of probabilities [N, C]."""
    middle = (first + second) / 2
    # Where the middle is 0, both are 0; xlogy(0, 1) is 0, while 0 / 0 would be nan.
    middle = torch.where(middle > 0, middle, 1)
    terms = torch.xlogy(first, first / middle) + torch.xlogy(second, second / middle)
    return (terms.sum(1) / 2).clamp(0, LARGEST_DIVERGENCE)
