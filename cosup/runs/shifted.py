"""The numbers of shifted test sets (`data.shifted`) in the summary of a run."""

import logging
from collections.abc import Mapping

from cosup import words
from cosup.layout.folders import ShiftedFiles
from cosup.probabilities import ProbTable
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.control_stages import Controls
from cosup.runs.inputs import Evaluation
from cosup.runs.measure import score
from cosup.runs.summary import Numbers, TestSplit, control_numbers, student_numbers
from cosup.seeds import seed_for

__all__ = ["log_shifted", "shifted_numbers"]

log = logging.getLogger(__name__)


def shifted_numbers(
    context: RunContext, prepared: Prepared, last_round: int, controls: Controls
) -> dict[str, Numbers]:
    """Return the numbers of each shifted set by name, as those of the test split in the summary.

    The floor is the teacher that is the run's: it is not chosen again. controls: those that were
    run, with their probabilities in the files of the set.
    """
    seed = seed_for(context.seed, "bootstrap")
    return {
        name: _numbers(context.files.shifted(name), prepared, one, last_round, controls, seed)
        for name, one in prepared.inputs.shifted.items()
    }


def log_shifted(found: Mapping[str, Numbers]) -> None:
    """Log the accuracy of the student and the floor on each set."""
    for name, numbers in found.items():
        log.info(
            "shifted set %s: student %s, floor %s, of %d samples",
            name,
            words.in_percent(numbers["student"]["accuracy"]),
            words.in_percent(numbers["floor"]["accuracy"]),
            numbers["samples"],
        )


def _numbers(
    files: ShiftedFiles,
    prepared: Prepared,
    found: Evaluation,
    last_round: int,
    controls: Controls,
    seed: int,
) -> Numbers:
    split, annotated = found.split, prepared.annotated
    answers = {
        teacher.name: annotated.answers(teacher, found)
        for level in annotated.levels
        for teacher in level
    }
    floor = answers[prepared.teachers.floor.name]
    others = {name: files.control(name).read(split.answers) for name in controls.found}
    student = student_numbers(
        split,
        files.round(last_round).read(split.answers),
        floor,
        others.get("ceiling"),
        seed,
        others.get("team"),
        controls.absent,
    )
    return {
        "samples": len(split),
        "student": student,
        "floor": {"teacher": prepared.teachers.floor.name, **_measured(split, floor)},
        "ceiling": {"accuracy": split.accuracy(others["ceiling"]) if "ceiling" in others else None},
        "controls": control_numbers(split, others, floor, seed),
        "teachers": [{"name": name, **_measured(split, probs)} for name, probs in answers.items()],
    }


def _measured(split: TestSplit, probs: ProbTable) -> Numbers:
    """Return the accuracy of a teacher where it answers, and how often it does."""
    found = score(probs, split.labels)
    return {"accuracy": found.accuracy, "coverage": found.coverage}
