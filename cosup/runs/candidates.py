"""Losses of which one setting is chosen by a run: what there is to choose from.

`adaptive_confidence` with the weight `best_constant` (METHODS.md section 2, the ablation of the
adaptive weight) is not a loss yet: it stands for one loss per constant, and a run takes the one
that does best on its validation split (`cosup.runs.choose_loss`).
"""

from dataclasses import dataclass

from cosup.config.schema import Config, Losses
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.registry import Choice, setting_names
from cosup.settings.losses import LossSettings


@dataclass(frozen=True)
class Candidate:
    """One of the losses to choose from: the setting's value, and the loss that it makes."""

    value: float
    loss: Choice


def candidates(choice: Choice) -> list[Candidate]:
    """What a run chooses from, in the order written; empty where the loss is one already."""
    found = Losses.settings(choice).candidates()
    return [Candidate(value, _choice(choice.name, loss)) for value, loss in found]


def check_candidates(config: Config, data: ImageData) -> None:
    """Raise `UserError` where a loss is to be chosen and there is no validation split for it."""
    rounds = config.rounds
    for choice in rounds.losses or [rounds.loss]:
        if candidates(choice) and not _has_validation(data):
            where = "rounds.loss" if rounds.losses is None else "rounds.losses"
            raise UserError(
                f"{where}: {choice.name}, weight 'best_constant': the constant is chosen on the "
                "validation split, and the data have none; give them one (such as "
                "data.splits.validation=0.1), or take weight 'constant' and a constant"
            )


def _has_validation(data: ImageData) -> bool:
    """Of samples; or, where few-shot learning is measured, of classes."""
    if data.novel is not None:
        return data.novel_validation is not None
    return len(data.rows("validation")) > 0


def _choice(name: str, loss: LossSettings) -> Choice:
    settings = {key: getattr(loss, key) for key in setting_names(type(loss))}
    return Losses.check({"name": name, **settings})
