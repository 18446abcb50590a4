"""Which classes of a pretrained classifier are a part of which class of the task."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cosup.config.teacher_model import TeacherModelSection
from cosup.errors import UserError, raise_all, unknown_of_many
from cosup.models.pretrained import plain_name
from cosup.words import listed

__all__ = ["class_groups"]


def class_groups(
    model: TeacherModelSection,
    classes: Sequence[str],
    scope: Sequence[int],
    outputs: int,
    names: Sequence[frozenset[str]] | None,
) -> Tensor:
    """Return [F] int64: for each of a classifier's F classes the task's class, or -1.

    Without `model.classes` each class of the scope is the one of the same name, or the classes are
    the task's in their order where they have no names. outputs: F. names: of its classes, or None.
    Raises `UserError` (key `classes`) with every mistake.
    """
    mapping: Mapping[str, Sequence[int | str]] | None = model.classes
    if mapping is None:
        mapping = _by_name(classes, scope, names) if names else _in_order(classes, outputs)
        own_classes = {name: classes.index(name) for name in mapping}
    else:
        own_classes = model.own_classes(classes)
    groups = torch.full((outputs,), -1)
    errors: list[UserError] = []
    for key, own in own_classes.items():
        for item in mapping[key]:
            try:
                part = _part(item, outputs, names)
                if groups[part] >= 0:
                    taken = classes[int(groups[part])]
                    raise UserError(f"is class {part} of the model, which '{taken}' has already")
            except UserError as error:
                about = error.moved(("classes", key))
                about.value = item
                errors.append(about)
            else:
                groups[part] = own
    raise_all(errors)
    return groups


def _part(item: int | str, outputs: int, names: Sequence[frozenset[str]] | None) -> int:
    """Return the index of a classifier's class."""
    if isinstance(item, int):
        if not 0 <= item < outputs:
            raise UserError("is no class of the model", allowed=f"0 to {outputs - 1}")
        return item
    if names is None:
        problem = "is a name, and the names of the model's classes are not known"
        raise UserError(problem, allowed=f"an index from 0 to {outputs - 1}")
    found = [index for index, known in enumerate(names) if plain_name(item) in known]
    if not found:
        every = {name for known in names for name in known}
        allowed = f"a name of one of its {outputs} classes, or an index"
        raise unknown_of_many("class of the model", item, every, allowed, plain_name(item))
    if len(found) > 1:
        problem = f"is the name of its classes {listed(found)}"
        raise UserError(problem, allowed="the index of one of them")
    return found[0]


def _by_name(
    classes: Sequence[str], scope: Sequence[int], names: Sequence[frozenset[str]]
) -> dict[str, list[int | str]]:
    """Return the mapping of each class of a scope to the one of the same name."""
    known = frozenset[str]().union(*names)
    missing = [classes[c] for c in scope if plain_name(classes[c]) not in known]
    if missing:
        raise UserError(
            f"must say which of the model's classes are the task's: it has none called "
            f"{listed(missing)}",
            key="classes",
        )
    return {classes[c]: [classes[c]] for c in scope}


def _in_order(classes: Sequence[str], outputs: int) -> dict[str, list[int | str]]:
    if outputs != len(classes):
        raise UserError(
            f"must say which of the model's {outputs} classes are the task's {len(classes)}",
            key="classes",
        )
    return {name: [index] for index, name in enumerate(classes)}
