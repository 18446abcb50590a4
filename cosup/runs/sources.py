"""The stage `sources`: how far each source of a run can be trusted, estimated without labels.

The posterior of the true class is that of the last round if its assigner fuses sources, else of a
`Fused` that is fitted to the last level for this alone. Where true labels of student_train are
known, the measured accuracy stands beside. METHODS.md section 10.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from cosup.assignment.fused import Fused, Sources
from cosup.config.schema import Assigners
from cosup.posterior import Judge, SourceSums, find_judge
from cosup.probabilities import ProbTable
from cosup.rounds import first_state
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.stages import build_recipe, cross_fitted
from cosup.runs.summary import Numbers
from cosup.seeds import seed_for
from cosup.sources import STUDENT, Tally, answers_of, block_of, notes
from cosup.teachers.table import TableTeacher

log = logging.getLogger(__name__)

STAGE = "sources"


def finish_sources(context: RunContext, prepared: Prepared, rounds: Sequence[Numbers]) -> Numbers:
    """Return the numbers of every source by name, computed once and then read from the stage."""
    run = context.run
    if not run.is_done(STAGE):
        started = time.monotonic()
        found = _sources(context, prepared, rounds)
        run.finish(STAGE, {"seconds": time.monotonic() - started, "sources": found})
    sources: Numbers = run.load(STAGE)["sources"]
    return sources


def _judge(context: RunContext, prepared: Prepared, rounds: Sequence[Numbers]) -> Judge:
    """Return the posterior of the last round, or one that is fitted for its level."""
    task, files, number = prepared.task, context.files, len(rounds)
    last = cross_fitted(context, number, task.num_classes)
    if last is None:
        last = files.round(number).train.read(task.num_classes)
    assigner = Assigners.build(context.config.rounds.assignment)
    guide: ProbTable | None = None
    if isinstance(assigner, Fused):
        if number > 1:
            guide = files.round(number - 1).train.read(task.num_classes)
        else:
            guide = first_state(task, build_recipe(context, prepared), context.seed).train_probs
        assigner.load_state_dict(files.round(number).assigner.read())
    return find_judge(
        task,
        task.levels[rounds[-1]["level"]],
        assigner,
        guide,
        last,
        seed_for(context.seed, STAGE),
        cross_fitted=context.config.folds > 0,
    )


def _sources(context: RunContext, prepared: Prepared, rounds: Sequence[Numbers]) -> Numbers:
    judge, data = _judge(context, prepared, rounds), prepared.data
    teachers = teachers_of(prepared)
    by_domain = len(data.domains) > 1
    regions = data.domains if by_domain else judge.fused.sources(judge.scopes).regions
    sums, posterior = _read(judge, prepared, teachers, len(regions), by_domain)
    context.files.posterior.write(posterior)
    return source_numbers(
        sums,
        judge.fused.sources(judge.scopes),
        sums.shares([*judge.scopes.names, STUDENT]) if judge.own else {},
        prepared,
        regions,
        seed_for(context.seed, "bootstrap"),
    )


def teachers_of(prepared: Prepared) -> list[str]:
    """Return the names of all teachers, level by level."""
    return [one.name for level in prepared.annotated.levels for one in level]


def source_numbers(
    sums: SourceSums,
    sources: Sources,
    share: Mapping[str, float],
    prepared: Prepared,
    regions: Sequence[str],
    seed: int,
) -> Numbers:
    """Return the numbers of every source by name, the student last.

    sources: those of the posterior. share: each one's part of the evidence, {} if the rounds had
    none. seed: of the intervals.
    """
    teachers, classes = teachers_of(prepared), prepared.data.classes
    judged, together = notes(sums.estimated, len(teachers)), _groups(sources)
    estimates, truths = (
        _numbers(tally, regions, classes, seed) for tally in (sums.estimated, sums.measured)
    )
    soft = dict(zip(sources.names, sources.soft, strict=True))
    tables = [one for level in prepared.annotated.levels for one in level]
    counts = {one.name: asdict(one.counts) for one in tables if isinstance(one, TableTeacher)}
    found: Numbers = {}
    for place, name in enumerate([*teachers, STUDENT]):
        (note, copies), own, true = judged[place], estimates[place], truths[place]
        group = [*together.get(name, []), *(teachers[other] for other in copies)]
        found[name] = {
            "kind": "soft" if soft.get(name, True) else "hard",
            "coverage": float(sums.answered[place]) / max(1, sums.samples),
            **own,
            "by_region": _beside(own["by_region"], true["by_region"]),
            "by_class": _beside(own["by_class"], true["by_class"]),
            "accuracy_where_answered": true["reliability"],
            "accuracy_ci95": true["reliability_ci95"],
            "share": share.get(name),
            "group": [other for other in dict.fromkeys(group) if other != name],
            "note": note,
            **counts.get(name, {}),
        }
    return found


def _read(
    judge: Judge, prepared: Prepared, teachers: Sequence[str], regions: int, by_domain: bool
) -> tuple[SourceSums, ProbTable]:
    """Count the answers of all teachers and of the student, a batch at a time; return with it the
    posterior of all samples."""
    truth, classes, scopes = prepared.task.truth, len(prepared.data.classes), judge.scopes
    heard = [teachers.index(name) for name in scopes.names]
    sums = SourceSums.zeros(len(teachers) + 1, classes, regions, len(scopes))
    blocks = block_of(prepared.samples.groups)
    assert judge.guide is not None
    said = all_answers(prepared, teachers, judge.guide)
    posterior = ProbTable.empty(len(judge.stream), classes)
    for rows, batch in judge.stream.items():
        found = sums.add(
            judge.fused,
            scopes,
            batch,
            said[rows].long(),
            truth.labels[rows],
            truth.domains[rows] if by_domain else None,
            blocks[rows],
            heard,
            judge.speaks,
        )
        posterior.put(rows, ProbTable.compress(found))
    return sums, posterior


def all_answers(prepared: Prepared, names: Sequence[str], guide: ProbTable) -> Tensor:
    """Return the answers [N, S] int32 of all teachers and last the student (-1: none)."""
    level = prepared.annotated.store.level("student_train", list(names))
    return answers_of([*(level.table(name) for name in names), guide])


def _numbers(
    tally: Tally, regions: Sequence[str], classes: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Return reliability, interval and samples of each source, overall, by region and by class."""
    overall, samples = tally.reliability(), tally.samples
    intervals = [None if found is None else list(found) for found in tally.intervals(seed)]
    return [
        {
            "samples": int(samples[source]),
            "reliability": _share(overall[source]),
            "reliability_ci95": intervals[source],
            "by_region": _each(regions, tally.by_region()[source], tally.total[source]),
            "by_class": _each(classes, tally.by_class()[source], tally.class_samples()[source]),
        }
        for source in range(tally.sources)
    ]


def _each(names: Sequence[str], shares: Tensor, samples: Tensor) -> dict[str, dict[str, Any]]:
    return {
        name: {"reliability": _share(share), "samples": round(float(count), 1)}
        for name, share, count in zip(names, shares, samples, strict=True)
    }


def _beside(
    estimated: dict[str, dict[str, Any]], measured: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Add the measured accuracy to each estimate."""
    return {
        name: {**numbers, "accuracy": measured[name]["reliability"]}
        for name, numbers in estimated.items()
    }


def _share(value: Tensor) -> float | None:
    number = float(value)
    return None if number != number else number


def _groups(sources: Sources) -> dict[str, list[str]]:
    """Return, for each source, the group of sources that `fused` found to err together."""
    found: dict[str, list[str]] = {}
    for members in sources.groups:
        together = [sources.names[member] for member in members]
        found |= dict.fromkeys(together, together)
    return found
