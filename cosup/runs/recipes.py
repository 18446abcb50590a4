"""The recipes that `rounds.choose: auto` compares.

A short list from simple to complex that covers the ways to combine sources: their plain mean,
routing to one of them, and fusing all of them, each with few losses and filters, some with
refinement or the labelled samples. To add a recipe is to add an entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cosup.config.rounds import CHOSEN, RoundsSection
from cosup.config.schema import Config
from cosup.errors import UserError
from cosup.teachers.hierarchy import Hierarchy, speakers

__all__ = [
    "RECIPES",
    "Candidate",
    "NamedRecipe",
    "Need",
    "available",
    "candidates",
]

Need = Literal["several", "specialists", "labels"]
"""several: a level with at least two sources. specialists: trained teachers of a part of the task,
whose training inputs are known (their provenance). labels: enough labelled samples that the student
may learn."""

CROSS_ENTROPY = {"name": "cross_entropy"}
ADAPTIVE = {"name": "adaptive_confidence"}
PRODUCT = {"name": "product"}
FUSED = {"name": "fused"}
GATE = {"name": "gate", "prior": "provenance"}
REFINED = {"name": "product"}


@dataclass(frozen=True)
class NamedRecipe:
    """One of the recipes.

    ways: how it combines and teaches, of its name. sentence: what it does. needs: what a run must
    have. labelled_weight: of the labels of teacher_train; None does not teach them. The other
    fields are settings of `rounds`.
    """

    ways: str
    sentence: str
    assignment: Mapping[str, Any]
    loss: Mapping[str, Any] = field(default_factory=lambda: CROSS_ENTROPY)
    targets: Literal["soft", "hard"] = "soft"
    consistency: Sequence[Mapping[str, Any]] = ()
    labelled_weight: float | None = None
    refine: Mapping[str, Any] | None = None
    needs: frozenset[Need] = frozenset()

    @property
    def name(self) -> str:
        """What it is called where no setting is given beside it."""
        return _name(self.ways, self.labelled_weight is not None, self.refine is not None)

    @property
    def rounds(self) -> dict[str, Any]:
        """The settings of the `rounds` section."""
        return {
            "assignment": dict(self.assignment),
            "consistency": [dict(item) for item in self.consistency],
            "loss": dict(self.loss),
            "targets": self.targets,
            "labelled": self.labelled_weight is not None,
            "labelled_weight": self.labelled_weight or "auto",
            "refine": None if self.refine is None else dict(self.refine),
        }


SEVERAL: frozenset[Need] = frozenset({"several"})
SPECIALISTS: frozenset[Need] = frozenset({"several", "specialists"})
LABELS: frozenset[Need] = frozenset({"labels"})

RECIPES: tuple[NamedRecipe, ...] = (
    NamedRecipe(
        "mean",
        "The mean of the sources, cross-entropy.",
        {"name": "mean"},
    ),
    NamedRecipe(
        "mean, product",
        "The mean of the sources, product.",
        {"name": "mean"},
        PRODUCT,
    ),
    NamedRecipe(
        "dawid_skene",
        "The source most probably right by Dawid-Skene, cross-entropy.",
        {"name": "dawid_skene"},
        needs=SEVERAL,
    ),
    NamedRecipe(
        "gate",
        "The specialist by a gate that knows their training inputs, cross-entropy.",
        GATE,
        needs=SPECIALISTS,
    ),
    NamedRecipe(
        "gate, adaptive",
        "The same gate, adaptive confidence.",
        GATE,
        ADAPTIVE,
        needs=SPECIALISTS,
    ),
    NamedRecipe(
        "gate, filtered, adaptive",
        "The same, without the annotations least probable under the student.",
        GATE,
        ADAPTIVE,
        consistency=({"name": "teacher_student", "mode": "rank", "k": 3},),
        needs=SPECIALISTS,
    ),
    NamedRecipe(
        "gate, product",
        "The same gate, product.",
        GATE,
        PRODUCT,
        needs=SPECIALISTS,
    ),
    NamedRecipe(
        "gate, product",
        "The same, and annotations refined by the student.",
        GATE,
        PRODUCT,
        refine=REFINED,
        needs=SPECIALISTS,
    ),
    NamedRecipe(
        "fused without the student",
        "The posterior's class from all sources, cross-entropy.",
        {**FUSED, "student": False},
        targets="hard",
    ),
    NamedRecipe(
        "fused",
        "The posterior's class from all sources and the student, cross-entropy.",
        FUSED,
        targets="hard",
    ),
    NamedRecipe(
        "fused, adaptive",
        "The posterior from all sources and the student, adaptive confidence.",
        FUSED,
        ADAPTIVE,
    ),
    NamedRecipe(
        "mean as a hint",
        "The labelled samples, and the mean of the sources with a weight of 0.01.",
        {"name": "mean"},
        labelled_weight=100.0,
        needs=LABELS,
    ),
    NamedRecipe(
        "mean",
        "The mean of the sources, refined, and the labelled samples, cross-entropy.",
        {"name": "mean"},
        labelled_weight=1.0,
        refine=REFINED,
        needs=LABELS,
    ),
    NamedRecipe(
        "gate",
        "The specialist by the gate, refined, and the labelled samples, cross-entropy.",
        GATE,
        labelled_weight=1.0,
        refine=REFINED,
        needs=SPECIALISTS | LABELS,
    ),
    NamedRecipe(
        "fused",
        "The posterior's class from all sources and the student, and the labelled samples.",
        FUSED,
        targets="hard",
        labelled_weight=3.0,
        needs=LABELS,
    ),
)


def _name(ways: str, labelled: bool, refined: bool) -> str:
    return ways + (", labelled" if labelled else "") + (", refined" if refined else "")


def available(has: frozenset[Need]) -> list[NamedRecipe]:
    """Return the recipes for a run that has these things, from simple to complex."""
    return [recipe for recipe in RECIPES if recipe.needs <= has]


@dataclass(frozen=True)
class Candidate:
    """A recipe with the settings that a config gives, as a config of its own."""

    name: str
    config: Config

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `rounds` that recipes differ in, as in a config."""
        tree = self.config.rounds.model_dump(mode="json", include=set(CHOSEN))
        return {key: tree[key] for key in CHOSEN}


def candidates(config: Config, hierarchy: Hierarchy, labels: bool) -> list[Candidate]:
    """Return the recipes that a run with `choose: auto` compares, from simple to complex.

    labels: whether there are enough labelled samples for the student to learn from. Settings given
    beside it replace those of the recipes; recipes that are then equal occur once. Each config has
    the folds that all of them are compared with. Raises `UserError` if everything is given.
    """
    rounds = config.rounds
    if not rounds.open:
        raise UserError(
            f"chooses among {', '.join(CHOSEN)}, and all of them are given; leave one out",
            key="rounds.choose",
            value="auto",
            allowed="null",
        )
    student = config.student.model_copy(update={"cross_fit": config.folds})
    found: dict[str, Candidate] = {}
    for recipe in available(_what_there_is(hierarchy, labels)):
        chosen = RoundsSection.model_validate(recipe.rounds)
        update = {key: getattr(chosen, key) for key in rounds.open}
        section = rounds.model_copy(update={**update, "choose": None})
        name = _name(recipe.ways, section.labelled, section.refine is not None)
        candidate = Candidate(
            name, config.model_copy(update={"rounds": section, "student": student})
        )
        found.setdefault(str(candidate.settings), candidate)
    return list(found.values())


def _what_there_is(hierarchy: Hierarchy, labels: bool) -> frozenset[Need]:
    """Return what the sources of a run allow."""
    finest = speakers(hierarchy)[-1]
    has: set[Need] = set()
    if len(finest) > 1:
        has.add("several")
    if any(not spec.generalist and spec.trained for spec in finest):
        has.add("specialists")
    if labels:
        has.add("labels")
    return frozenset(has)
