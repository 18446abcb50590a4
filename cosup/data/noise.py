"""Label noise: what trainers are given in place of the true classes.

A sample of class i is given class j with probability T[i, j], drawn once per sample and seed,
independently of every other sample; so a set's share of wrong labels is the rate in expectation.
Only training samples are given wrong labels, and the true ones stay beside them.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosup.data.section import NoiseSection
from cosup.errors import UserError, unknown_name
from cosup.seeds import numpy_generator

__all__ = ["CIFAR10_MAP", "CIFAR100_GROUPS", "noisy_labels", "transitions"]

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_ROUNDING = 1e-3  # matrices are written with three decimals, and thirds don't sum to 1 then

CIFAR10_MAP = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}
"""CIFAR-10's classes that look alike (Patrini et al., arXiv 1609.03683, section 5)."""

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
"""CIFAR-100's superclasses (Krizhevsky 2009), their classes in the order of the set's own labels;
each is taken for the next one of its superclass (Patrini et al., section 5)."""


def noisy_labels(section: NoiseSection, labels: Ints, classes: Sequence[str], seed: int) -> Ints:
    """Given labels [N] of true ones [N] (-1 stays). Raises `UserError` as `transitions`."""
    cumulative = transitions(section, classes).cumsum(1)
    cumulative /= cumulative[:, -1:]
    draw = numpy_generator(seed, "noise").random(len(labels))
    given = labels.copy()
    for label in range(len(classes)):
        own = labels == label
        given[own] = np.searchsorted(cumulative[label], draw[own], side="right")
    return given


def transitions(section: NoiseSection, classes: Sequence[str]) -> Floats:
    """T [C, C]: the probability of each given class for each true one.

    Raises `UserError` for a map or a matrix that doesn't fit these classes.
    """
    count = len(classes)
    if section.kind == "matrix":
        return _checked(_matrix(section), classes)
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
            raise UserError(f"data.noise.map: {unknown_name('class', name, classes)}")
    return chosen


def _matrix(section: NoiseSection) -> Floats:
    given = section.matrix
    if isinstance(given, str):
        return _read_matrix(Path(given))
    assert given is not None
    if len({len(row) for row in given}) > 1:
        raise UserError("data.noise.matrix: its rows differ in length")
    return np.asarray(given, dtype=np.float64)


def _read_matrix(path: Path) -> Floats:
    try:
        return np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"data.noise.matrix: no file '{path}'") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data.noise.matrix: '{path}' can't be read as CSV of numbers: {reason}"
        ) from None


def _checked(matrix: Floats, classes: Sequence[str]) -> Floats:
    count = len(classes)
    if matrix.shape != (count, count):
        shape = " x ".join(map(str, matrix.shape))
        raise UserError(f"data.noise.matrix: {shape}; {count} classes need {count} x {count}")
    sums = matrix.sum(1)
    for row in range(count):
        if not (matrix[row] >= 0).all() or not abs(sums[row] - 1) <= _ROUNDING:
            raise UserError(
                f"data.noise.matrix: row {row + 1} (class '{classes[row]}') sums to "
                f"{sums[row]:g}, its least is {matrix[row].min():g}; a row holds probabilities "
                "that sum to 1"
            )
    return matrix
