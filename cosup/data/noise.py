"""Label noise: wrong labels for training samples.

A sample of class i gets label j with probability T[i, j], drawn once per sample and seed,
independently of other samples, so the share of wrong labels equals the rate in expectation. Only
training samples get wrong labels, and the true ones are kept next to them.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosup.data.images import Ints
from cosup.data.section import NoiseSection
from cosup.errors import UserError, in_short, unknown_name
from cosup.seeds import numpy_generator

__all__ = ["CIFAR10_MAP", "CIFAR100_GROUPS", "noisy_labels", "transitions"]

log = logging.getLogger(__name__)

Transitions = NDArray[np.float64]

_ROUNDING = 1e-3  # with three decimals, thirds do not sum to 1

CIFAR10_MAP = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}
"""Similar classes of CIFAR-10 (Patrini et al., arXiv 1609.03683, section 5)."""

CIFAR100_GROUPS = tuple(
    tuple(group.split())
    for group in (
        "beaver dolphin otter seal whale",
        "aquarium_fish flatfish ray shark trout",
        "orchid poppy rose sunflower tulip",
        "bottle bowl can cup plate",
        "apple mushroom orange pear sweet_pepper",
        "clock keyboard lamp telephone television",
        "bed chair couch table wardrobe",
        "bee beetle butterfly caterpillar cockroach",
        "bear leopard lion tiger wolf",
        "bridge castle house road skyscraper",
        "cloud forest mountain plain sea",
        "camel cattle chimpanzee elephant kangaroo",
        "fox porcupine possum raccoon skunk",
        "crab lobster snail spider worm",
        "baby boy girl man woman",
        "crocodile dinosaur lizard snake turtle",
        "hamster mouse rabbit shrew squirrel",
        "maple_tree oak_tree palm_tree pine_tree willow_tree",
        "bicycle bus motorcycle pickup_truck train",
        "lawn_mower rocket streetcar tank tractor",
    )
)
"""CIFAR-100's superclasses (Krizhevsky 2009), with their classes in the order of the dataset's
labels. Each class becomes the next of its superclass (Patrini et al., section 5)."""


def noisy_labels(section: NoiseSection, labels: Ints, classes: Sequence[str], seed: int) -> Ints:
    """Draw labels [N] for true labels [N] (-1 stays); errors as in `transitions`."""
    cumulative = transitions(section, classes).cumsum(1)
    cumulative /= cumulative[:, -1:]
    draw = numpy_generator(seed, "noise").random(len(labels))
    given = labels.copy()
    for label in range(len(classes)):
        own = labels == label
        given[own] = np.searchsorted(cumulative[label], draw[own], side="right")
    return given


def transitions(section: NoiseSection, classes: Sequence[str]) -> Transitions:
    """Return T [C, C], the probability of each label (column) for each true class (row).

    Raise `UserError`, keyed within `noise`, for a map or matrix that does not fit these classes.
    """
    count = len(classes)
    if section.kind == "matrix":
        return _checked_matrix(_matrix(section), classes)
    assert section.rate is not None
    kept = np.eye(count)
    if section.kind == "symmetric":
        return (1 - section.rate) * kept + section.rate * (1 - kept) / (count - 1)
    target = np.arange(count)
    for source, other in _class_map(section, classes).items():
        target[classes.index(source)] = classes.index(other)
    return (1 - section.rate) * kept + section.rate * kept[target]


def _class_map(section: NoiseSection, classes: Sequence[str]) -> Mapping[str, str]:
    chosen = section.map
    assert chosen is not None
    if chosen == "next":
        return dict(zip(classes, [*classes[1:], classes[0]], strict=True))
    if chosen == "cifar10":
        chosen = CIFAR10_MAP
    elif chosen == "cifar100":
        chosen = {
            name: group[(place + 1) % len(group)]
            for group in CIFAR100_GROUPS
            for place, name in enumerate(group)
        }
    assert not isinstance(chosen, str)
    for name in (name for pair in chosen.items() for name in pair):
        if name not in classes:
            raise unknown_name("class", name, classes, key="map")
    return chosen


def _matrix(section: NoiseSection) -> Transitions:
    given = section.matrix
    if isinstance(given, str):
        return _read_matrix(Path(given))
    assert given is not None
    if len({len(row) for row in given}) > 1:
        raise UserError("the rows differ in length", key="matrix")
    return np.asarray(given, dtype=np.float64)


def _read_matrix(path: Path) -> Transitions:
    try:
        return np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("no file {value}", key="matrix", value=str(path)) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot be read as CSV of numbers: {in_short(error)}", key="matrix", value=str(path)
        ) from None


def _checked_matrix(matrix: Transitions, classes: Sequence[str]) -> Transitions:
    count = len(classes)
    if matrix.shape != (count, count):
        shape = " x ".join(map(str, matrix.shape))
        raise UserError(f"a matrix of {shape}", key="matrix", allowed=f"{count} x {count}")
    sums = matrix.sum(1)
    for row in range(count):
        if not (matrix[row] >= 0).all() or not abs(sums[row] - 1) <= _ROUNDING:
            raise UserError(
                f"row {row + 1} (class '{classes[row]}') sums to {sums[row]:g} and has the minimum "
                f"{matrix[row].min():g}",
                key="matrix",
                value=matrix[row].tolist(),
                allowed="rows of probabilities that sum to 1",
            )
    return matrix
