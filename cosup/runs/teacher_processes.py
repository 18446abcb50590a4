"""Train teachers that are networks side by side on the GPUs of this machine.

Each group of teachers that are trained together has a process with a card. This process stores what
they return, as if it had trained them, so their numbers do not depend on the cards.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from cosup.models.compute import Compute
from cosup.runs.card_trainings import Cards, Unsent, Write
from cosup.runs.handed_over import Reporting
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.sent import SentTeacher
from cosup.teachers.train import kind_of, load_group, save_group, train_group

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
    on = Cards(cards, stop_signal)
    empty = replace(training, features=FeatureCache(Compute()), on_step=None)

    def store(_: str, sent: Sequence[SentTeacher]) -> None:
        save_group([one.restore(training) for one in sent], training)

    try:
        on.train(
            _train,
            (empty, on.share(training.compute, len(todo))),
            {f"teacher {', '.join(spec.name for spec in group)}": list(group) for group in todo},
            noun="teachers",
            told=lambda step, loss, steps, name: training.report(name, step, loss, steps),
            done=store,
        )
    except Unsent as error:
        log.warning("teachers are trained in turn: they cannot be sent (%s)", error)


def _is_network(group: Sequence[TeacherSpec]) -> bool:
    return kind_of(group[0]).is_network and group[0].trained


def _train(
    shared: tuple[Training, Compute], specs: Sequence[TeacherSpec], write: Write
) -> list[SentTeacher]:
    """Return a group of teachers that is trained in this process. Raises as `train_group`."""
    training, compute = shared
    reports = {spec.name: Reporting(write) for spec in specs}

    def report(name: str, step: int, loss: float, steps: int) -> None:
        reports[name](step, steps, loss, steps, name)

    here = replace(training, features=FeatureCache(compute), on_step=report)
    return [SentTeacher.of(teacher) for teacher in train_group(specs, here)]
