"""The algorithm: rounds of assign, filter, update, predict, from the coarsest level to the finest.

Co-Supervised Learning (Liu and Alahi, arXiv 2402.15505): the latest student stands in for the
truth when teachers are assigned; annotations that are inconsistent with it are rejected; the
student learns from the others. A round knows no disk and no cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosup.assignment import Assigner
from cosup.config.schema import Assigners, Filters, Losses, RoundsSection
from cosup.consistency import Chain, ChainResult, Filter, Measures, check_kept
from cosup.evidence import mix
from cosup.levels import Level, Stream, Task
from cosup.losses.base import Objective
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance, Inputs, Student
from cosup.seeds import seed_for

NewStudent = Callable[[Objective, int], Student]
"""Makes a student that minimises this, its randomness seeded by this."""

PART_STUDENTS = frozenset({"global_probs", "local_probs"})
"""What takes students of parts of the samples to fill in."""


@dataclass(frozen=True)
class Assigned:
    """Which teachers supervise N samples, and with what.

    weights: [N, T]. targets: the assigned annotations (an all-zero row where all abstain).
    """

    weights: Tensor
    targets: ProbTable


@dataclass(frozen=True)
class Kept:
    """Which assigned annotations stay: keep [N] bool, and the reason of each rejection."""

    keep: Tensor
    rejected_by: Tensor
    reasons: tuple[str, ...]

    def reason(self) -> list[str]:
        """Per sample the name of the filter that rejected it first, or ''."""
        names = (*self.reasons, "")
        return [names[index] for index in self.rejected_by.tolist()]


@dataclass(frozen=True)
class Outcome:
    """A finished round: its decisions, and what the student predicts after it."""

    number: int
    level: int
    guide: ProbTable | None
    assigned: Assigned
    kept: Kept
    train_probs: ProbTable
    test_probs: ProbTable
    student: dict[str, Tensor]
    assigner: dict[str, Tensor]


@dataclass(frozen=True)
class Before:
    """What a round takes over from those before it; all None at the first."""

    train_probs: ProbTable | None = None
    coarse_probs: ProbTable | None = None
    student: dict[str, Tensor] | None = None


def schedule(levels: int, repeat: int) -> list[tuple[int, int]]:
    """(round, level) of every round, in order; rounds count from 1."""
    order = [level for level in range(levels) for _ in range(repeat)]
    return list(enumerate(order, start=1))


def run_round(
    task: Task,
    section: RoundsSection,
    new_student: NewStudent,
    before: Before,
    number: int,
    level: Level,
    seed: int,
) -> Outcome:
    """Assign, filter, update, predict.

    Raises `RunError` when a filter keeps nothing, or the loss is no longer finite.
    """
    seed = seed_for(seed, "round", number)
    assigner = Assigners.build(section.assignment)
    student = new_student(objective(section), seed)
    if before.student is not None and not section.fresh_head:
        student.load_state_dict(before.student)
    labels = task.labels if section.true_label_weight else None
    stream = Stream(
        level, before.train_probs, task.features, task.truth, before.coarse_probs, labels=labels
    )

    assigned = assign(assigner, stream, seed, hard=section.targets == "hard")
    kept = filter_annotations(section, stream, assigned, student, task.inputs)
    guidance = Guidance(labels, assigned.weights.argmax(1), level.live)
    student.update(task.inputs, assigned.targets, kept.keep.float(), guidance)

    return Outcome(
        number,
        level.index,
        before.train_probs,
        assigned,
        kept,
        train_probs=student.predict_own(task.inputs),
        test_probs=student.predict(task.test_inputs),
        student=student.state_dict(),
        assigner=assigner.state_dict(),
    )


def objective(section: RoundsSection) -> Objective:
    """What a round's student minimises."""
    loss = Losses.build(section.loss)
    return Objective(loss, section.annotation_weight, section.true_label_weight)


def run_rounds(
    task: Task,
    section: RoundsSection,
    new_student: NewStudent,
    seed: int,
    done: dict[int, Before] | None = None,
) -> Iterator[Outcome]:
    """Every round in turn. `done` holds what finished rounds left, by number: they are skipped."""
    before = _before_first(task, section, new_student, seed, done)
    last_level = 0
    coarse: ProbTable | None = None
    for number, index in schedule(len(task.levels), section.repeat):
        if index != last_level:
            coarse, last_level = before.train_probs, index
        before = Before(before.train_probs, coarse, before.student)
        if done and number in done:
            before = done[number]
            continue
        outcome = run_round(task, section, new_student, before, number, task.levels[index], seed)
        yield outcome
        before = Before(outcome.train_probs, coarse, outcome.student)


def _before_first(
    task: Task,
    section: RoundsSection,
    new_student: NewStudent,
    seed: int,
    done: dict[int, Before] | None,
) -> Before:
    """What guides the first round: nothing but the crowd, or the student as it starts."""
    if section.first_guide == "crowd" or (done and 1 in done):
        return Before()
    return Before(new_student(objective(section), seed).predict(task.inputs))


def assign(assigner: Assigner, stream: Stream, seed: int, hard: bool = False) -> Assigned:
    """Fit the assigner, then give every sample its weights and its annotation."""
    scopes = stream.level.scopes
    stream = stream.restricted(assigner.needs)
    provenance = stream.level.provenance if "provenance" in assigner.needs else None
    assigner.fit(stream, scopes, seed=seed_for(seed, "assigner"), provenance=provenance)
    weights = torch.zeros(len(stream), len(scopes))
    targets = ProbTable.empty(len(stream), stream.num_classes)
    for rows, evidence in stream.items():
        weights[rows] = assigner.assign(
            evidence.student_probs,
            evidence.annotations,
            evidence.features,
            scopes,
            truth=evidence.truth,
        )
        targets.put(rows, ProbTable.compress(mix(evidence.annotations, weights[rows])))
    return Assigned(weights, harden(targets) if hard else targets)


def harden(table: ProbTable) -> ProbTable:
    """Each row's most probable class for certain; abstentions stay all zero."""
    labels, confidence = table.top()
    hard = ProbTable.one_hot(labels, table.num_classes)
    hard.values[confidence == 0] = 0
    return hard


def filter_annotations(
    section: RoundsSection, stream: Stream, assigned: Assigned, student: Student, inputs: Inputs
) -> Kept:
    """Run the chain of filters; raises `RunError` when nothing is kept.

    Filters that compare students of parts of the samples see students of what the others keep.
    """
    filters = [(choice.name, Filters.build(choice)) for choice in section.consistency]
    chain = _chain(filters)
    stream = stream.restricted(chain.needs)
    if chain.needs & PART_STUDENTS:
        plain = _chain([(name, item) for name, item in filters if not item.needs & PART_STUDENTS])
        provisional = _decide(plain, stream, assigned.weights)
        check_kept(provisional, 0.0)
        stream = with_part_students(stream, assigned, provisional.keep, student, inputs)
    result = _decide(chain, stream, assigned.weights)
    check_kept(result, section.min_kept)
    return Kept(result.keep, result.rejected_by, result.reasons)


def with_part_students(
    stream: Stream, assigned: Assigned, keep: Tensor, student: Student, inputs: Inputs
) -> Stream:
    """Add the predictions of the global student (all kept samples) and of the local ones.

    A sample's local student is that of the teacher with the most weight on it. All are fitted
    together. A teacher with no kept sample has no local student: the global one stands in.
    """
    teacher = assigned.weights.argmax(1)
    if len(torch.unique(teacher)) == 1:
        # The local student is the global one: nothing to train, nothing to disagree about.
        return replace(stream, global_probs=assigned.targets, local_probs=assigned.targets)
    members = [torch.nonzero(keep)[:, 0]]
    parts = {}
    for t in range(assigned.weights.shape[1]):
        rows = torch.nonzero(keep & (teacher == t))[:, 0]
        if 0 < len(rows) < len(members[0]):
            parts[t] = len(members)
            members.append(rows)
    students = student.fit_parts(inputs, assigned.targets, members)
    global_probs = students.predict(0, inputs)
    order, tables = [], []
    for t in range(assigned.weights.shape[1]):
        rows = torch.nonzero(teacher == t)[:, 0]
        if not len(rows):
            continue
        order.append(rows)
        tables.append(
            students.predict(parts[t], inputs[rows]) if t in parts else global_probs.take(rows)
        )
    local_probs = ProbTable.concat(tables).take(torch.argsort(torch.cat(order)))
    return replace(stream, global_probs=global_probs, local_probs=local_probs)


def _decide(chain: Chain, stream: Stream, weights: Tensor) -> ChainResult:
    """Measure batch by batch, decide on all samples.

    The statistics of all samples are allocated before the first batch: small tensors that outlive
    large ones would keep the heap from shrinking, and memory would grow with the samples.
    """
    whole: list[Measures] = []
    for rows, evidence in stream.items():
        parts = chain.measure(evidence, weights[rows])
        if not whole:
            whole = [
                {name: value.new_empty(len(stream)) for name, value in part.items()}
                for part in parts
            ]
        for into, part in zip(whole, parts, strict=True):
            for name, value in part.items():
                into[name][rows] = value
    return chain.decide(whole)


def _chain(filters: Sequence[tuple[str, Filter]]) -> Chain:
    return Chain([name for name, _ in filters], [item for _, item in filters])
