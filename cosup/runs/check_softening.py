"""Check that losses do not soften annotations of which too few classes are stored."""

from cosup.config.rounds import Losses, RoundsSection
from cosup.config.student import StudentSection
from cosup.data.table import ImageData
from cosup.errors import Mistakes
from cosup.losses.softening import check_softening

__all__ = ["check_losses_soften", "check_rounds_soften"]

HARD = ", or rounds.targets 'hard'"


def check_losses_soften(rounds: RoundsSection, student: StudentSection, samples: ImageData) -> None:
    """Check the losses of the rounds and of the meta stage. Raises `UserError`."""
    mistakes = Mistakes()
    with mistakes.caught():
        check_rounds_soften(rounds, len(samples.classes))
    meta = None if student.meta is None else student.meta.loss
    if meta is not None and rounds.targets == "soft":
        with mistakes.caught():
            check_softening(Losses.settings(meta), len(samples.classes), "student.meta.loss", HARD)
    mistakes.raise_all()


def check_rounds_soften(rounds: RoundsSection, num_classes: int) -> None:
    """Check the losses of the rounds. Raises `UserError`.

    Hard targets have one class at any temperature, and live annotations are not stored.
    """
    if rounds.targets == "hard" or rounds.live_annotations:
        return
    others = f"{HARD}, or rounds.live_annotations true (mode 'finetune')"
    asked = {"rounds.loss": rounds.loss}
    if rounds.losses is not None:
        asked = {f"rounds.losses.{place}": each for place, each in enumerate(rounds.losses)}
    mistakes = Mistakes()
    for key, choice in asked.items():
        with mistakes.caught():
            check_softening(Losses.settings(choice), num_classes, key, others)
    mistakes.raise_all()
