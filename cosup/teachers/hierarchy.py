"""The hierarchy of teachers: levels from coarse to fine; the scopes of a level cover the task.

The levels follow CSL (Liu and Alahi, arXiv 2402.15505, and its published code): 1, 2, 4, 8
teachers, each on a block of the classes, or each on some of the domains.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosup.config.external import ExternalSection
from cosup.config.teacher_model import DEFAULT_SETUP, TeacherModelSection, TeacherSetup
from cosup.config.teachers import TEACHER_KEY, HierarchySection, TeachersSection
from cosup.errors import Mistakes, UserError, within
from cosup.evidence import Scopes
from cosup.models.training_section import TrainingSection
from cosup.seeds import numpy_generator
from cosup.teachers.names import is_odd, scope_name
from cosup.teachers.tables.reading import open_table
from cosup.teachers.tables.teachers import Opener, expand_tables
from cosup.words import listed

__all__ = ["Hierarchy", "TeacherSpec", "plan_hierarchy", "scopes", "speakers"]

LONGEST = 100
"""Letters of a teacher's name, at most; a longer list of domains is named by its first and last
index."""


@dataclass(frozen=True)
class TeacherSpec:
    """Specification of one teacher.

    classes, domains: indices of its scope, ascending; None means all. external: its entry of
    `teachers.external`, for its annotator alone; None for a teacher of `teachers.hierarchy`.
    bootstrap: seed of the bootstrap sample that it trains on; None trains on all samples of its
    scope. setup: its model and training, unless it is external.
    """

    name: str
    level: int
    classes: tuple[int, ...] | None = None
    domains: tuple[int, ...] | None = None
    external: ExternalSection | None = None
    bootstrap: int | None = None
    setup: TeacherSetup = DEFAULT_SETUP

    @property
    def model(self) -> TeacherModelSection:
        """Its model, unless it is external."""
        return self.setup.model

    @property
    def training(self) -> TrainingSection:
        """Its training, unless it is external."""
        return self.setup.training

    @property
    def trained(self) -> bool:
        """Whether the run trains it on labelled samples; else it is used as it is."""
        return self.external is None and self.setup.trained

    @property
    def generalist(self) -> bool:
        """Whether its scope is the whole task."""
        return self.classes is None and self.domains is None

    @property
    def simulated(self) -> bool:
        """Whether its annotations are made from the true labels."""
        return self.external is not None and self.external.simulate is not None


Hierarchy = tuple[tuple[TeacherSpec, ...], ...]


def plan_hierarchy(
    section: TeachersSection,
    classes: Sequence[str],
    domains: Sequence[str],
    seed: int,
    opener: Opener = open_table,
) -> Hierarchy:
    """Return the teachers of each level, coarse to fine; external teachers come last in a level.

    The level of external teachers may be one finer than the hierarchy's finest: they then form a
    level of their own. Annotation tables are opened (by `opener`): one of several annotators is a
    teacher of each. Raises `UserError` with every unknown class or domain, more teachers than there
    are classes or domains, every name used twice, and every level that does not cover the task
    (which is not named where a teacher is wrong).
    """
    levels: list[list[TeacherSpec]] = []
    mistakes = Mistakes()
    expanded: list[tuple[int, ExternalSection]] = []
    with mistakes.caught():
        if section.hierarchy is not None:
            levels = _trained_levels(section, section.hierarchy, classes, domains, seed)
    for number, level in enumerate(levels):
        for place, spec in enumerate(level):
            with mistakes.caught():
                levels[number][place] = _without_unknown(spec, classes)
    with mistakes.caught():
        expanded = expand_tables(section.external, classes, opener)
    for position, external in expanded:
        with mistakes.caught():
            _add_external(levels, external, position, section.external, classes, domains)
    complete = not mistakes.errors
    mistakes.add(_repeated_names(levels))
    for number, level in enumerate(levels if complete else ()):
        with mistakes.caught():
            _check_cover(number, level, classes, domains)
    mistakes.raise_all()
    return tuple(tuple(level) for level in levels)


def speakers(levels: Sequence[Sequence[TeacherSpec]]) -> list[list[TeacherSpec]]:
    """Return who annotates in the rounds of each level: its own teachers first.

    External teachers whose scope is the whole task annotate in every round. Trained generalists do
    not: they learn from the same samples as the specialists of finer levels, and err with them.
    """
    found = []
    for number, own in enumerate(levels):
        others = [
            spec
            for level, specs in enumerate(levels)
            for spec in specs
            if level != number and spec.generalist and spec.external is not None
        ]
        found.append([*own, *others])
    return found


def scopes(level: Sequence[TeacherSpec], num_classes: int, num_domains: int) -> Scopes:
    """Return the scopes of a level's teachers, in their order."""
    return Scopes.of(
        [spec.classes for spec in level],
        num_classes,
        [spec.domains for spec in level],
        num_domains,
        [spec.name for spec in level],
    )


def _trained_levels(
    teachers: TeachersSection,
    section: HierarchySection,
    classes: Sequence[str],
    domains: Sequence[str],
    seed: int,
) -> list[list[TeacherSpec]]:
    if section.teachers is not None:
        mistakes = Mistakes()
        explicit: list[list[TeacherSpec]] = [[] for _ in section.teachers]
        for level, members in enumerate(section.teachers):
            for place in range(len(members)):
                with mistakes.caught():
                    explicit[level].append(_explicit(teachers, level, place, classes, domains))
        mistakes.raise_all()
        return explicit
    names = classes if section.by == "class" else domains
    taken: set[str] = set()
    levels = []
    for level, count in enumerate(section.levels):
        if count > len(names):
            raise UserError(
                f"{count} teachers by {section.by}, but the data has {len(names)}",
                key="teachers.hierarchy.levels",
                value=section.levels,
                allowed=f"at most {len(names)}",
            )
        specs = _block_specs(section, level, count, names, seed)
        specs = [replace(spec, setup=teachers.setup()) for spec in specs]
        levels.append([_rename_if_taken(spec, taken) for spec in specs])
    return levels


def _block_specs(
    section: HierarchySection, level: int, count: int, names: Sequence[str], seed: int
) -> list[TeacherSpec]:
    """Return the teachers of one level: `count` blocks of classes or domains of equal size."""
    if count == 1:
        return [TeacherSpec("all", level)]
    order = np.arange(len(names))
    if section.partition == "random":
        order = numpy_generator(seed, "hierarchy", section.by, level).permutation(len(names))
    specs = []
    for number, part in enumerate(np.array_split(order, count)):
        block = tuple(sorted(int(index) for index in part))
        name = _block_name(section, block, names, number, count)
        if section.by == "class":
            specs.append(TeacherSpec(name, level, classes=block))
        else:
            specs.append(TeacherSpec(name, level, domains=block))
    return specs


def _block_name(
    section: HierarchySection, block: tuple[int, ...], names: Sequence[str], number: int, count: int
) -> str:
    by = section.by
    if len(block) == 1:
        return f"{by}_{scope_name(block[0], names[block[0]])}"
    plural = "classes" if by == "class" else "domains"
    if section.partition == "random":
        return f"{plural}_part{number + 1}of{count}"
    if by == "class":
        return f"{plural}_{block[0]}-{block[-1]}"
    named = [scope_name(index, names[index]) for index in block]
    joined = f"{plural}_{'-'.join(named)}"
    if len(joined) > LONGEST or any(map(is_odd, (names[index] for index in block))):
        return f"{plural}_{block[0]}to{block[-1]}"
    return joined


def _rename_if_taken(spec: TeacherSpec, taken: set[str]) -> TeacherSpec:
    """Return the spec with a name that no other generated teacher has (`all`, `all_2`, ...)."""
    name, number = spec.name, 1
    while name in taken:
        number += 1
        name = f"{spec.name}_{number}"
    taken.add(name)
    return replace(spec, name=name)


def _explicit(
    section: TeachersSection,
    level: int,
    position: int,
    classes: Sequence[str],
    domains: Sequence[str],
) -> TeacherSpec:
    """Return the teacher at this place of `hierarchy.teachers`."""
    assert section.hierarchy is not None
    assert section.hierarchy.teachers is not None
    teacher, setup = section.hierarchy.teachers[level][position], section.setup(level, position)
    with within(f"{TEACHER_KEY.format(level, position)}.scope"):
        scope = teacher.scope.resolve(classes, domains)
    return TeacherSpec(teacher.name, level, *scope, setup=setup)


def _without_unknown(spec: TeacherSpec, classes: Sequence[str]) -> TeacherSpec:
    """Return the spec without the classes of its scope that its model does not know.

    Raises `UserError` if none is left.
    """
    if spec.model.classes is None:
        return spec
    with within(spec.setup.model_key):
        known = set(spec.model.own_classes(classes).values())
    own = [c for c in spec.classes or range(len(classes)) if c in known]
    if not own:
        raise UserError(
            "maps onto no class of its scope",
            key=f"{spec.setup.model_key}.classes",
            value=list(spec.model.classes or ()),
            allowed=listed([classes[c] for c in spec.classes or ()]),
            where=f"teacher '{spec.name}'",
        )
    return replace(spec, classes=None if len(own) == len(classes) else tuple(own))


def _add_external(
    levels: list[list[TeacherSpec]],
    external: ExternalSection,
    position: int,
    siblings: Sequence[ExternalSection],
    classes: Sequence[str],
    domains: Sequence[str],
) -> None:
    """Add an external teacher to its level, which may be a new one."""
    asked = {other.level for other in siblings if other.level >= 0}
    finest = max(len(levels) - 1, *asked, 0)
    level = finest if external.level == -1 else external.level
    gap = next((number for number in range(len(levels), finest) if number not in asked), None)
    if level < 0 or gap is not None:
        allowed = "-1 for the finest, or 0 and up, leaving no level without a teacher"
        raise UserError(
            "is negative" if gap is None else f"level {gap} has no teacher",
            key=f"teachers.external.{position}.level",
            value=external.level,
            allowed=allowed,
        )
    while len(levels) <= level:
        levels.append([])
    assert external.name is not None
    with within(f"teachers.external.{position}.scope"):
        found = external.scope.resolve(classes, domains)
    levels[level].append(TeacherSpec(external.name, level, *found, external=external))


def _repeated_names(levels: Sequence[Sequence[TeacherSpec]]) -> list[UserError]:
    counts = Counter(spec.name for level in levels for spec in level)
    return [
        UserError(
            f"the name is used {count} times",
            key="teachers",
            value=name,
            allowed="a name of its own for each teacher",
        )
        for name, count in counts.items()
        if count > 1
    ]


def _check_cover(
    number: int, level: Sequence[TeacherSpec], classes: Sequence[str], domains: Sequence[str]
) -> None:
    """Raise `UserError` unless each class of each domain is in the scope of a teacher."""
    if not level:
        raise UserError(f"level {number} has no teacher", key="teachers")
    table = scopes(level, len(classes), len(domains))
    held = (table.classes[:, :, None] & table.domains[:, None, :]).any(0).numpy()
    if held.all():
        return
    if not held.any(1).all():
        missing = "classes " + listed([classes[c] for c in np.flatnonzero(~held.any(1)).tolist()])
    elif not held.any(0).all():
        missing = "domains " + listed([domains[g] for g in np.flatnonzero(~held.any(0)).tolist()])
    else:
        pairs = [f"'{classes[c]}' in '{domains[g]}'" for c, g in np.argwhere(~held)]
        missing = "classes " + listed(pairs)
    names = listed([spec.name for spec in level])
    raise UserError(
        f"level {number} ({names}) does not cover the task: no scope contains {missing}",
        key="teachers",
    )
