"""Train teachers that are networks side by side on the GPUs of this machine.

Each group of teachers that are trained together has a process with a card. This process stores what
they return, as if it had trained them, so their numbers do not depend on the cards.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from cosup.errors import in_short
from cosup.models.compute import Compute
from cosup.models.weights import check_identity
from cosup.runs.handed_over import UNSENT, Lines, Reporting, dump, load
from cosup.runs.side_by_side import VISIBLE, run_side_by_side
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.train import kind_of, load_group, restored, save_group, train_group

__all__ = ["train_on_cards"]

log = logging.getLogger(__name__)


def train_on_cards(
    groups: Sequence[Sequence[TeacherSpec]],
    training: Training,
    cards: Sequence[str],
    stop_signal: str | None,
) -> None:
    """Train the groups of networks that `training.directory` lacks, and store them there.

    With one group to train, or those that cannot be sent to other processes, nothing is done, and
    they are left to this process. cards: as in CUDA_VISIBLE_DEVICES. stop_signal:
    `execution.stop_signal`. Raises the error of the first group that fails, after the others have
    ended and are stored.
    """
    assert training.directory is not None
    networks = {tuple(spec.name for spec in one): one for one in groups if _is_network(one)}
    todo = [group for group in networks.values() if load_group(group, training) is None]
    if len(todo) < 2:
        return
    with tempfile.TemporaryDirectory(prefix="cosup-teachers-") as folder:
        try:
            tasks = _write(todo, training, Path(folder), stop_signal, len(cards))
        except UNSENT as error:
            reason = in_short(error)
            log.warning("teachers are trained in turn: they cannot be sent (%s)", reason)
            return
        errors = _run(tasks, training, cards)
        for group, task in zip(todo, tasks, strict=True):
            if task.name not in errors:
                _store(group, task, training)
    for failure in errors.values():
        raise failure


def _is_network(group: Sequence[TeacherSpec]) -> bool:
    return kind_of(group[0]).is_network and group[0].trained


@dataclass(frozen=True)
class GroupTraining:
    """The training of a group in a process of its own.

    folder: has what it reads, and gets the teachers. number: among those of one call. name: of the
    group, for the log.
    """

    folder: Path
    number: int
    name: str
    stop_signal: str | None

    @property
    def result(self) -> Path:
        """Return the file of the teachers."""
        return self.folder / f"teachers-{self.number}"

    @property
    def steps(self) -> Path:
        """Return the file of the steps that are reported: a line of JSON each."""
        return self.folder / f"steps-{self.number}"

    def compute(self) -> None:
        """Train the group in this process. Raises as `train_group`."""
        training, compute = load(self.folder / "training")
        specs = load(self.folder / f"group-{self.number}")
        with self.steps.open("w", buffering=1) as lines:
            reports = {spec.name: Reporting(lines.write) for spec in specs}

            def record(name: str, step: int, loss: float, steps: int) -> None:
                reports[name](step, steps, loss, steps, name)

            found = train_group(
                specs, replace(training, features=FeatureCache(compute), on_step=record)
            )
        dump([Trained(one.steps, one.identity, one.tensors()) for one in found], self.result)


@dataclass(frozen=True)
class Trained:
    """A teacher as it is returned: its steps, identity and tensors."""

    steps: int
    identity: str
    tensors: Mapping[str, Tensor]


def _write(
    groups: Sequence[Sequence[TeacherSpec]],
    training: Training,
    folder: Path,
    stop_signal: str | None,
    cards: int,
) -> list[GroupTraining]:
    """Write what each process reads to the folder."""
    compute = training.compute
    share = replace(compute, workers=max(1, compute.workers // min(len(groups), cards)))
    empty = replace(training, features=FeatureCache(Compute()), on_step=None)
    dump((empty, share), folder / "training")
    tasks = []
    for number, group in enumerate(groups):
        dump(list(group), folder / f"group-{number}")
        name = f"teacher {', '.join(spec.name for spec in group)}"
        tasks.append(GroupTraining(folder, number, name, stop_signal))
    return tasks


def _run(
    tasks: Sequence[GroupTraining], training: Training, cards: Sequence[str]
) -> dict[str, Exception]:
    """Run the trainings and report their steps. Return the errors by name, in the order of the
    groups."""
    failed: dict[str, Exception] = {}
    told = [Lines(task.steps) for task in tasks]

    def pass_on() -> None:
        for lines in told:
            for step, loss, steps, name in lines.new():
                training.report(name, step, loss, steps)

    run_side_by_side(
        {task.name: task for task in tasks},
        [{VISIBLE: card} for card in cards],
        failed=failed.__setitem__,
        noun="teachers",
        meanwhile=pass_on,
    )
    return {task.name: failed[task.name] for task in tasks if task.name in failed}


def _store(group: Sequence[TeacherSpec], task: GroupTraining, training: Training) -> None:
    """Store the teachers of a group as if they had been trained here."""
    found: list[Trained] = load(task.result)
    teachers = []
    for spec, one in zip(group, found, strict=True):
        teacher = restored(spec, training, one.tensors, one.steps)
        check_identity(teacher.identity, one.identity, f"teacher '{spec.name}'")
        teachers.append(teacher)
    save_group(teachers, training)
