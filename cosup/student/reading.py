"""Read the tensors of a student's folder, and check them before anything is built from them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from torch import Tensor, nn

from cosup.errors import UserError, in_short
from cosup.manifest import Damaged, Manifest
from cosup.models.heads import HIDDEN
from cosup.models.weights import read_weights
from cosup.words import literal, plural

__all__ = [
    "check_arguments",
    "check_classes",
    "check_fit",
    "check_head",
    "check_recorded",
    "of_folder",
    "read_tensors",
]

SHOWN = 3
"""Names of tensors in an error."""
LARGEST_ARGUMENT = 2**16
"""Of a number that a network is built by, such as a width. The widest layers have 2**15."""
DEPTHS = ("layers", "depth", "repeat", "blocks")
"""Parts of the names of arguments that are numbers of layers."""
Shapes = dict[str, tuple[int, ...]]


@contextmanager
def of_folder(folder: Path) -> Iterator[None]:
    """Name the folder in every `UserError` that does not name it already."""
    try:
        yield
    except UserError as error:
        if str(folder) in str(error):
            raise
        raise error.moved(where=str(folder)) from error.__cause__


def check_recorded(path: Path, folder: Path) -> None:
    """Raise `Damaged` if a file is not what the manifest of the student's folder says of it.

    Without a manifest (the folder is from an earlier cosup) nothing is known, and nothing raised.
    """
    try:
        Manifest(folder).check(path)
    except Damaged as error:
        advice = "`cosup verify RUN --repair` writes it again where its run is; else get it again"
        raise Damaged(error.path, f"{error.reason}; {advice}") from None


def read_tensors(path: Path, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    folder: of the student. Raises `UserError` for a file that is missing or none of safetensors,
    and for numbers that are not finite; `Damaged` as `check_recorded`.
    """
    check_recorded(path, folder)
    assert path.suffix == ".safetensors"
    state = read_weights(str(path))
    for name, tensor in state.items():
        # A sum is one pass without memory; one that overflows is looked at again.
        if not (tensor.sum().isfinite() or torch.isfinite(tensor).all()):
            problem = f"{path.name} holds numbers that are not finite ({name})"
            raise UserError(problem, where=str(path.parent))
    return state


def check_fit(
    path: Path, what: str, build: Callable[[], nn.Module], prefix: str = ""
) -> nn.Module | None:
    """Raise `UserError` if a file does not hold the tensors of a network, before it takes memory.

    what: the network, for errors. build: builds it. prefix: of its tensors in the file; others are
    ignored if there is one. Returns the network without memory for its tensors (on torch's device
    `meta`); None for one that cannot be built so, and is not checked here.
    """
    given = _shapes(path)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            blank = build()
    except UserError:
        raise
    except Exception:  # a network's own arithmetic, which the device lacks, raises many kinds
        return None
    wanted = {name: tuple(tensor.shape) for name, tensor in blank.state_dict().items()}
    if prefix:
        given = {name: shape for name, shape in given.items() if name.startswith(prefix)}
    wrong = sorted(
        name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name)
    )
    if wrong:
        names = ", ".join(wrong[:SHOWN])
        problem = f"{path.name} does not fit {what}: {plural(len(wrong), 'tensor')} ({names})"
        raise UserError(problem, where=str(path.parent))
    return blank


def check_arguments(arguments: Mapping[str, Any], about: Path, weights: Path) -> None:
    """Raise `UserError` for a number in a network's arguments that no network of its size has.

    arguments: JSON of the file `about`. weights: the file of its tensors, of which every layer has
    one at least.
    """
    layers = max(1, len(_shapes(weights)))
    for name, number in _numbers(arguments):
        most = layers if any(part in name for part in DEPTHS) else LARGEST_ARGUMENT
        if not abs(number) <= most:
            problem = f"{about.name} does not fit {weights.name}: {name} is {literal(number)}"
            raise UserError(problem, where=str(about.parent), allowed=f"at most {most}")


def check_head(state: Mapping[str, Tensor], path: Path, classes: int) -> None:
    """Raise `UserError` for tensors that are not those of one head of so many classes.

    weight [1, C, D]; bias [1, C] or log_scale [1]; shift and gain [1, D] or neither. With hidden
    layers of W values the weight is [1, C, W].
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    weight = shapes.get("weight", ())
    known: Shapes = {}
    if len(weight) == 3:
        known = {"weight": (1, *weight[1:]), "bias": (1, weight[1]), "log_scale": (1,)}
        hidden, width = _hidden(shapes)
        known |= hidden
        width = width or weight[2]
        known |= {"shift": (1, width), "gain": (1, width)}
    wrong = [name for name, shape in shapes.items() if known.get(name) != shape]
    kinds = ("bias" in state) + ("log_scale" in state)
    if wrong or not known or kinds != 1 or ("shift" in state) != ("gain" in state):
        text = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:5])
        raise UserError(f"{path.name} does not hold a head ({text})", where=str(path.parent))
    check_classes(path, weight[1], classes)


def _hidden(shapes: Shapes) -> tuple[Shapes, int | None]:
    """Return the shapes that the hidden layers of a head must have, and the features that the first
    one reads; None without hidden layers."""
    first, last = shapes.get(HIDDEN[0], ()), shapes["weight"][2]
    names = [name for name in HIDDEN if name in shapes]
    if "bias" not in shapes or len(first) != 3 or names != list(HIDDEN[: len(names)]):
        return {}, None
    found: Shapes = {}
    for name, inputs in zip(names, (first[2], last), strict=False):
        found |= {name: (1, last, inputs), f"{name}_bias": (1, last)}
    complete = found.keys() <= shapes.keys()
    return (found, first[2]) if complete else ({}, None)


def check_classes(path: Path, found: int, classes: int) -> None:
    """Raise `UserError` for a file with another number of classes than the student has."""
    if found != classes:
        problem = f"{path.name} has {plural(found, 'class')}, and the student has {classes}"
        raise UserError(problem, where=str(path.parent))


def _shapes(path: Path) -> Shapes:
    """Return the shapes in a file's header. Raises `UserError` for what is no safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: tuple(found.get_shape()) for name, found in slices.items()}
    except (OSError, safetensors.SafetensorError) as error:
        problem = f"{path.name} is no safetensors file ({in_short(error)})"
        raise UserError(problem, where=str(path.parent)) from None


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers with the key that they stand under."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, name)
    elif isinstance(value, int | float):
        yield name, value
