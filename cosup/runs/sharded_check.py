"""Check that a config can be run shard by shard, and build its rounds."""

from cosup.config.schema import Config
from cosup.errors import Mistakes, UserError
from cosup.losses.base import Objective
from cosup.protocols import Student
from cosup.recipe import Recipe
from cosup.runs.losses import candidates, with_loss
from cosup.runs.stages import round_recipe
from cosup.sharded.opening import is_sharded
from cosup.sharded.supported import check_recipe

__all__ = ["check_sharded", "shard_recipe"]


def check_sharded(config: Config) -> None:
    """Raise `UserError` with every setting that sharded runs do not support."""
    if not is_sharded(config.data):
        return
    rounds, student, mistakes = config.rounds, config.student, Mistakes()

    def refuse(wrong: bool, key: str, value: object, allowed: str) -> None:
        if wrong:
            problem = "cannot be {value} with data.sharded (false lists all samples in memory)"
            mistakes.add([UserError(problem, key=key, value=value, allowed=allowed)])

    losses = rounds.losses or [rounds.loss]
    refuse(rounds.live_annotations, "rounds.live_annotations", True, "false")
    refuse(rounds.report_epoch != "last", "rounds.report_epoch", rounds.report_epoch, "last")
    refuse(student.meta is not None, "student.meta", "set", "null")
    optimizer = student.training.optimizer
    refuse(optimizer == "lbfgs", "student.training.optimizer", optimizer, "adam, adamw")
    for loss in losses:
        with mistakes.caught():
            one, *_ = [found.loss for found in candidates(loss)] or [loss]
            check_recipe(shard_recipe(with_loss(config, one)))
    mistakes.raise_all()


def shard_recipe(config: Config) -> Recipe:
    """Return how the rounds of a sharded run are run."""
    return round_recipe(config.rounds, _no_student)


def _no_student(minimised: Objective, seed: int) -> Student:
    raise AssertionError("the student of the recipe learns from shards instead")
