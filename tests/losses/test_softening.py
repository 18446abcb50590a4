"""Losses that soften annotations of more classes than are stored are refused, and no others."""

import numpy as np
import pytest

import cosup
from cosup.config.rounds import RoundsSection
from cosup.errors import UserError
from cosup.losses import LOSSES, build_loss
from cosup.losses.softening import check_softening
from cosup.probabilities import DENSE_LIMIT
from cosup.runs.check_softening import check_rounds_soften

SOFTENING = (
    ({"name": "distillation", "tau": 4.0}, "tau"),
    ({"name": "distillation", "tau": 1.0, "teacher_tau": 2.0}, "teacher_tau"),
    ({"name": "adaptive_confidence", "tau": 4.0}, "tau"),
    ({"name": "dkd", "tau": 4.0}, "tau"),
    ({"name": "product", "alpha": 0.5}, "alpha"),
)
PLAIN = (
    {"name": "distillation", "tau": 1.0},
    {"name": "distillation", "tau": 4.0, "teacher_tau": 1.0},
    {"name": "adaptive_confidence", "temperature": 4.0},
    {"name": "adaptive_confidence", "tau": 4.0, "form": "paper"},
    {"name": "dkd", "tau": 1.0},
    {"name": "product", "alpha": 2.0},
    {"name": "product", "alpha": 0.0},
)


@pytest.mark.parametrize(("settings", "key"), SOFTENING)
def test_a_temperature_is_refused_beyond_the_classes_that_are_stored(
    settings: dict[str, object], key: str
) -> None:
    loss = build_loss(settings)
    check_softening(loss, DENSE_LIMIT, "loss")
    with pytest.raises(UserError) as caught:
        check_softening(loss, DENSE_LIMIT + 1, "loss")
    assert caught.value.key == ("loss", key)


@pytest.mark.parametrize("settings", PLAIN)
def test_other_losses_are_not(settings: dict[str, object]) -> None:
    check_softening(build_loss(settings), 1000, "loss")


def test_losses_without_a_temperature_soften_nothing() -> None:
    known = {str(settings["name"]) for settings, _ in SOFTENING}
    for name in LOSSES.keys() - known:
        check_softening(build_loss(name), 1000, "loss")


def test_a_run_may_soften_hard_targets_and_live_annotations() -> None:
    loss = {"name": "distillation", "tau": 4.0}
    for more in ({"targets": "hard"}, {"live_annotations": True}):
        check_rounds_soften(RoundsSection.model_validate({"loss": loss, **more}), 1000)
    with pytest.raises(UserError) as caught:
        check_rounds_soften(RoundsSection.model_validate({"loss": loss}), 1000)
    assert caught.value.key == ("rounds", "loss", "tau")
    several = RoundsSection.model_validate({"losses": ["cross_entropy", loss]})
    with pytest.raises(UserError) as caught:
        check_rounds_soften(several, 1000)
    assert caught.value.key == ("rounds", "losses", "1", "tau")


def test_arrays_of_many_classes_are_refused_too() -> None:
    rng = np.random.default_rng(0)
    answers = rng.dirichlet(np.ones(DENSE_LIMIT + 1), (20, 2))
    made = cosup.CoSupervision(loss={"name": "distillation", "tau": 4.0})
    with pytest.raises(UserError, match="softens"):
        made.fit(rng.normal(size=(20, 3)), answers)
