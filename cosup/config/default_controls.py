"""The controls of a config that names none: all that apply and cost little beside the run."""

from cosup.config.rounds import RoundsSection
from cosup.config.student import StudentSection
from cosup.config.teachers import TeachersSection
from cosup.controls import BAGGED, CONTROLS, GENERALIST, LABELS, PAIR, TEAM
from cosup.data.section import DataSection, SplitShares

__all__ = ["default_controls"]

FOR_NETWORKS = (TEAM, PAIR, LABELS, "mean_ensemble", "best_teacher", "ceiling")
"""The controls of a student that is a network: each trains one."""


def default_controls(
    data: DataSection | None = None,
    teachers: TeachersSection | None = None,
    student: StudentSection | None = None,
    rounds: RoundsSection | None = None,
    **_: object,
) -> list[str]:
    """Return the controls that apply to these sections; None stands for one with mistakes.

    What only the data can tell, such as whether labels are known, is not asked: a control that a
    run cannot have is left out of its results.
    """
    if data is None or teachers is None or student is None or rounds is None:
        return []
    if data.few_shot is None and isinstance(data.splits, SplitShares) and not data.splits.test:
        return []  # nothing to compare them by
    names = set(CONTROLS if student.mode == "head" else FOR_NETWORKS)
    names.discard("oracle_without_rounds")  # near `oracle_assignment`, for published comparisons
    if student.mode != "head" or student.head.init != "text":
        names.discard("zero_shot")
    if data.noise is None:
        names.discard("given_labels")  # they are the true labels, as for the ceiling
    if not teachers.trains_on_labels:
        names.discard(LABELS)
    if teachers.hierarchy is None:
        names -= {TEAM, PAIR}  # annotation tables cannot answer new images
    specialists = teachers.specialist_setups
    alike = all(setup.resembles(specialists[0]) for setup in specialists)
    if not (specialists and alike and specialists[0].model.traits.fits_many):
        names -= {GENERALIST, BAGGED}  # networks would take as long as the specialists again
    # What `choose: auto` is still to choose is not known yet.
    if not rounds.consistency and "consistency" not in rounds.open:
        names.discard("no_filter")
    if rounds.loss.name == "cross_entropy" and "loss" not in rounds.open:
        names.discard("plain_loss")
    if student.training.steps == 0:
        names = {name for name in names if not CONTROLS[name].is_trained}
    return [name for name in CONTROLS if name in names]
