"""Few-shot learning: base classes are the task; novel ones are learnt from a few images each.

Vinyals et al., arXiv 1606.04080; the usual splits of miniImageNet are those of Ravi and
Larochelle, "Optimization as a Model for Few-Shot Learning" (ICLR 2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosup.data.section import FewShotSection
from cosup.data.sources import Collection
from cosup.errors import UserError, unknown_name
from cosup.seeds import numpy_generator

__all__ = ["ClassParts", "class_parts", "of_classes"]


@dataclass(frozen=True)
class ClassParts:
    """Indices of the classes of each part, ascending; together they are all classes."""

    base: tuple[int, ...]
    validation: tuple[int, ...]
    novel: tuple[int, ...]


def class_parts(
    classes: Sequence[str], roles: Sequence[str] | None, section: FewShotSection, seed: int
) -> ClassParts:
    """Divide the classes. roles: what the source says of each (base, validation or novel), if it
    does.

    Raises `UserError` for unknown names, a class in two parts, too few classes for the episodes or
    fewer than two left as base.
    """
    order = np.arange(len(classes))
    if section.draw:
        order = numpy_generator(seed, "few_shot").permutation(order)
    free = order.tolist()
    novel = _chosen("novel", section.novel, free, classes, roles)
    free = [index for index in free if index not in novel]
    validation = _chosen("validation", section.validation, free, classes, roles)
    twice = novel & validation
    if twice:
        raise UserError(
            f"data.few_shot: class '{classes[min(twice)]}' is in novel and in validation"
        )
    for name, part in (("novel", novel), ("validation", validation)):
        if len(part) < section.ways and (part or name == "novel"):
            raise UserError(
                f"data.few_shot.ways: {section.ways}, but there are only {len(part)} {name} "
                f"class{'' if len(part) == 1 else 'es'}"
            )
    base = set(free) - validation
    if len(base) < 2:
        raise UserError(
            f"data.few_shot: {len(novel)} novel and {len(validation)} validation of {len(classes)} "
            f"classes leave {len(base)} to train on; at least 2 are needed"
        )
    return ClassParts(tuple(sorted(base)), tuple(sorted(validation)), tuple(sorted(novel)))


def of_classes(
    collection: Collection, chosen: Sequence[int], *, unlabelled: bool = False
) -> Collection:
    """The samples of these classes, which become classes 0, 1, ... in this order.

    unlabelled: keep samples without a label too. Parts lose their meaning: an official test part
    holds images of base and novel classes alike.
    """
    place = np.full(len(collection.classes) + 1, -1, np.int64)
    place[list(chosen)] = np.arange(len(chosen))
    label = collection.table["label"].to_numpy(np.int64)
    coded = place[label]
    kept = (coded >= 0) | ((label < 0) & unlabelled)
    table = collection.table.assign(label=coded)[kept].reset_index(drop=True)
    classes = tuple(collection.classes[index] for index in chosen)
    if collection.official_test:
        table["split"] = ""
    return replace(collection, table=table, classes=classes, official_test=False, roles=None)


def _chosen(
    part: str,
    wish: int | list[str | int] | str,
    free: Sequence[int],
    classes: Sequence[str],
    roles: Sequence[str] | None,
) -> set[int]:
    if isinstance(wish, int):
        if wish > len(free):
            raise UserError(f"data.few_shot.{part}: {wish}, but only {len(free)} classes are left")
        return set(free[len(free) - wish :])
    if isinstance(wish, str):
        if roles is None:
            raise UserError(
                f"data.few_shot.{part}: 'given', but this source doesn't say which classes are "
                "base, validation and novel; give a number or names"
            )
        return {index for index, role in enumerate(roles) if role == part}
    return {_index(part, item, classes) for item in wish}


def _index(part: str, item: str | int, classes: Sequence[str]) -> int:
    if str(item) in classes:
        return list(classes).index(str(item))
    if isinstance(item, str):
        raise UserError(f"data.few_shot.{part}: {unknown_name('class', item, classes)}")
    if not 0 <= item < len(classes):
        raise UserError(
            f"data.few_shot.{part}: {item} is not a class "
            f"(allowed: a name, or an index of 0 to {len(classes) - 1})"
        )
    return item
