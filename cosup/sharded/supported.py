"""What of a recipe cannot be done shard by shard."""

from collections.abc import Iterator

from cosup.assignment.base import SummingAssigner
from cosup.consistency.local_global import LocalGlobal
from cosup.consistency.ranking import RankingFilter
from cosup.errors import Mistakes, UserError
from cosup.losses.features import FeatureLoss
from cosup.recipe import Recipe
from cosup.settings import registered_name
from cosup.settings.assigners import ASSIGNERS
from cosup.settings.losses import LOSSES

__all__ = ["check_recipe"]


def check_recipe(recipe: Recipe) -> None:
    """Raise `UserError` for what cannot be done shard by shard."""
    mistakes = Mistakes()
    mistakes.add(_problems(recipe))
    mistakes.raise_all()


def _problems(recipe: Recipe) -> Iterator[UserError]:
    if recipe.assigner.fuses and not isinstance(recipe.assigner, SummingAssigner):
        yield UserError(
            "cannot be {value} with data.sharded, as it holds answers of all samples",
            key="rounds.assignment",
            value=registered_name(ASSIGNERS, recipe.assigner),
            allowed="one of cosup's own, such as fused, dawid_skene or crowd_layer",
        )
    loss = recipe.objective.loss
    if isinstance(loss, FeatureLoss):
        yield UserError(
            "cannot be {value} with data.sharded, where no teacher runs beside the student",
            key="rounds.loss",
            value=registered_name(LOSSES, loss),
            allowed="a loss on probabilities",
        )
    for name, each in zip(recipe.filters.names, recipe.filters.filters, strict=True):
        if each.needs_all and not isinstance(each, RankingFilter | LocalGlobal):
            yield UserError(
                "cannot have the filter {value} with data.sharded: it needs all samples at once",
                key="rounds.consistency",
                value=name,
                allowed="filters of one sample, those that rank, and local_global",
            )
