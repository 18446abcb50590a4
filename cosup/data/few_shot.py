"""Base, validation and novel classes of few-shot learning.

Base classes are the task; novel classes are learnt from a few images each. Vinyals et al., arXiv
1606.04080; the usual splits of miniImageNet are those of Ravi and Larochelle, "Optimization as a
Model for Few-Shot Learning" (ICLR 2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cosup.data.section import FewShotSection
from cosup.errors import UserError, unknown_name
from cosup.seeds import numpy_generator
from cosup.words import plural

__all__ = ["ClassParts", "class_parts"]


@dataclass(frozen=True)
class ClassParts:
    """Indices of the classes of each part, ascending; every class is in one part."""

    base: tuple[int, ...]
    validation: tuple[int, ...]
    novel: tuple[int, ...]


def class_parts(
    classes: Sequence[str], roles: Sequence[str] | None, section: FewShotSection, seed: int
) -> ClassParts:
    """Divide the classes. roles: those of the source (base, validation or novel), or None.

    Raise `UserError`, keyed within `few_shot`, for unknown names, a class in two parts, too few
    classes for the episodes, or fewer than two base classes.
    """
    order = np.arange(len(classes))
    if section.draw:
        order = numpy_generator(seed, "few_shot").permutation(order)
    free = order.tolist()
    novel = _chosen_classes("novel", section.novel, free, classes, roles)
    free = [index for index in free if index not in novel]
    validation = _chosen_classes("validation", section.validation, free, classes, roles)
    twice = novel & validation
    if twice:
        raise UserError(
            "class {value} is in novel and in validation", key="novel", value=classes[min(twice)]
        )
    for name, part in (("novel", novel), ("validation", validation)):
        if len(part) < section.ways and (part or name == "novel"):
            raise UserError(
                f"there are only {plural(len(part), f'{name} class')}",
                key="ways",
                value=section.ways,
            )
    base = set(free) - validation
    if len(base) < 2:
        raise UserError(
            f"{len(novel)} novel and {len(validation)} validation of {len(classes)} classes leave "
            f"{len(base)} to train on; at least 2 are needed",
            key="novel",
        )
    return ClassParts(tuple(sorted(base)), tuple(sorted(validation)), tuple(sorted(novel)))


def _chosen_classes(
    part: str,
    wish: int | list[str | int] | str,
    free: Sequence[int],
    classes: Sequence[str],
    roles: Sequence[str] | None,
) -> set[int]:
    if isinstance(wish, int):
        if wish > len(free):
            raise UserError(f"only {len(free)} classes are left", key=part, value=wish)
        return set(free[len(free) - wish :])
    if isinstance(wish, str):
        if roles is None:
            raise UserError(
                "this source has no base, validation and novel classes",
                key=part,
                value=wish,
                allowed="a number or names",
            )
        return {index for index, role in enumerate(roles) if role == part}
    return {_class_index(part, item, classes) for item in wish}


def _class_index(part: str, item: str | int, classes: Sequence[str]) -> int:
    if str(item) in classes:
        return list(classes).index(str(item))
    if isinstance(item, str):
        raise unknown_name("class", item, classes, key=part)
    if not 0 <= item < len(classes):
        raise UserError(
            "not a class",
            key=part,
            value=item,
            allowed=f"a name, or an index of 0 to {len(classes) - 1}",
        )
    return item
