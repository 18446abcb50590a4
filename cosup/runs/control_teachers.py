"""The teachers that are trained for controls alone: generalists with the specialists' budget.

The budget is the number of optimiser steps of all trained specialists of all levels.
`equal_budget_generalist` spends it on one generalist, `bagged_generalists` on as many as the finest
level has specialists, each on a bootstrap sample of teacher_train (Breiman, "Bagging predictors",
1996; METHODS.md section 6).
"""

from collections.abc import Iterable

from cosup.config.schema import Config
from cosup.controls import BAGGED, GENERALIST
from cosup.data.table import ImageData
from cosup.runs.backend import TeacherGroup
from cosup.seeds import seed_for
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec
from cosup.teachers.train import planned_steps


def why_no_generalists(specs: Iterable[TeacherSpec]) -> str | None:
    """Return why no generalist can have the budget of these teachers' specialists, or None."""
    specialists = [spec for spec in specs if spec.trained and not spec.generalist]
    if not specialists:
        return "no specialist is trained, so there is no budget to train generalists with"
    if not all(spec.setup.resembles(specialists[0].setup) for spec in specialists):
        return (
            "the specialists that are trained differ in model or training, so no generalist is "
            "one like them with their budget"
        )
    return None


def control_teachers(
    config: Config, hierarchy: Hierarchy, data: ImageData
) -> dict[str, TeacherGroup]:
    """Return the teachers of each control that has its own: made as the specialists are, but for
    the budget.

    Their levels follow those of the hierarchy. Empty where `why_no_generalists` has a reason,
    and without a test split, by which controls are compared.
    """
    everyone = [spec for level in hierarchy for spec in level]
    measured = data.novel is not None or len(data.rows("test"))
    if not measured or why_no_generalists(everyone) is not None:
        return {}
    specialists = [spec for spec in everyone if spec.trained and not spec.generalist]
    budget, setup = sum(planned_steps(s, data) for s in specialists), specialists[0].setup
    count = sum(spec.level == specialists[-1].level for spec in specialists)
    after = len(hierarchy)
    groups: dict[str, TeacherGroup] = {}
    if GENERALIST in config.controls:
        own = setup.with_steps(budget)
        groups[GENERALIST] = [TeacherSpec(GENERALIST, after, setup=own)]
    if BAGGED in config.controls:
        seeds = [seed_for(config.run.seed, "bootstrap", number) for number in range(count)]
        own = setup.with_steps(max(1, budget // count))
        groups[BAGGED] = [
            TeacherSpec(f"bagged_generalist_{number}", after + 1, bootstrap=seed, setup=own)
            for number, seed in enumerate(seeds, start=1)
        ]
    return groups
