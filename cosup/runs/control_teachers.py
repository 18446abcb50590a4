"""The teachers that are trained for controls alone: generalists with the specialists' budget.

The budget is the number of optimiser steps of all trained specialists of all levels.
`equal_budget_generalist` spends it on one generalist, `bagged_generalists` on as many as the finest
level has specialists, each on a bootstrap sample of teacher_train (Breiman, "Bagging predictors",
1996; METHODS.md section 6).
"""

from cosup.config.schema import Config
from cosup.controls import BAGGED, GENERALIST
from cosup.data.table import ImageData
from cosup.runs.backend import TeacherGroup
from cosup.seeds import seed_for
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec
from cosup.teachers.train import planned_steps

NO_BUDGET = "no specialist is trained, so there is no budget to train generalists with"
"""The reason why there are none."""


def control_teachers(
    config: Config, hierarchy: Hierarchy, data: ImageData
) -> dict[str, TeacherGroup]:
    """Return the teachers of each control that has its own, with the settings of their training.

    Their levels follow those of the hierarchy. Empty without trained specialists.
    """
    steps = [
        [planned_steps(spec, config.teachers, data) for spec in level if not spec.generalist]
        for level in hierarchy
    ]
    counts = [len(trained) for level in steps if (trained := [one for one in level if one])]
    if not counts:
        return {}
    budget, count, after = sum(map(sum, steps)), counts[-1], len(hierarchy)
    groups: dict[str, TeacherGroup] = {}
    if GENERALIST in config.controls:
        groups[GENERALIST] = _group(config, [TeacherSpec(GENERALIST, after)], budget)
    if BAGGED in config.controls:
        seeds = [seed_for(config.run.seed, "bootstrap", number) for number in range(count)]
        specs = [
            TeacherSpec(f"bagged_generalist_{number}", after + 1, bootstrap=seed)
            for number, seed in enumerate(seeds, start=1)
        ]
        groups[BAGGED] = _group(config, specs, max(1, budget // count))
    return groups


def _group(config: Config, specs: list[TeacherSpec], steps: int) -> TeacherGroup:
    training = config.teachers.training.model_copy(update={"steps": steps, "epochs": None})
    return specs, config.teachers.model_copy(update={"training": training})
