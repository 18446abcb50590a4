"""Check the arrays that a user gives, and convert them to tensors.

Arrays are NumPy arrays, tensors, or what NumPy makes an array of. Of other arrays than tensors a
copy is taken; numbers of any type become float32 or int64. Every check raises `UserError` with the
argument's name.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosup.errors import UserError
from cosup.words import plural

__all__ = [
    "ArrayLike",
    "annotations_of",
    "classes_of",
    "codes_of",
    "features_of",
    "logits_of",
    "numbers_of",
    "plain",
    "probabilities_of",
    "targets_of",
]

ArrayLike = Tensor | npt.ArrayLike

NO_ANSWER = -1
"""The class number of an answer that was not given."""
SUM_ERROR = 0.01
"""Probabilities may sum to 1 up to this: half precision rounds them."""
SHARE = "probabilities in 0 .. 1 that sum to 1"
ANNOTATIONS = "class numbers [N, T] (-1: no answer) or probabilities [N, T, C] (all 0: no answer)"


def annotations_of(value: ArrayLike, num_classes: int | None, name: str = "annotations") -> Tensor:
    """Return annotations [N, T, C] float32; an all-zero row is an abstention.

    value: probabilities [N, T, C], or class numbers [N, T] with -1 (or NaN, as pandas has it) for
    no answer. num_classes: C, if it is known; else the largest class number plus 1.
    """
    found = _numbers(value, name)
    if found.ndim == 3:
        _check_shape(found, name, (None, None, num_classes), ("N", "T", "C"))
        _check_sizes(found, name)
        return _probabilities(found, name, may_abstain=True)
    if found.ndim != 2:
        raise UserError(f"has the shape {list(found.shape)}", key=name, allowed=ANNOTATIONS)
    _check_sizes(found, name)
    labels = _class_numbers(found, name, num_classes, ANNOTATIONS)
    count = num_classes if num_classes is not None else int(labels.max()) + 1
    if count < 1:
        raise UserError("has no answer, so that the number of classes is unknown", key=name)
    probs = torch.zeros(*labels.shape, count, device=labels.device)
    return probs.scatter_(2, labels.clamp_min(0)[..., None], (labels >= 0).float()[..., None])


def probabilities_of(
    value: ArrayLike,
    name: str,
    shape: Sequence[int | None],
    dims: Sequence[str] = ("N", "C"),
    *,
    may_abstain: bool = False,
) -> Tensor:
    """Return probabilities as float32, with the sizes of `shape` (None: any).

    dims: names of the dimensions, for errors. may_abstain: rows may be all 0.
    """
    found = _numbers(value, name)
    _check_shape(found, name, shape, dims)
    return _probabilities(found, name, may_abstain)


def classes_of(
    value: ArrayLike, name: str, samples: int, num_classes: int, dim: str = "N"
) -> Tensor:
    """Return class numbers [N] int64; -1 where the class is unknown."""
    found = _numbers(value, name)
    _check_shape(found, name, (samples,), (dim,))
    return _class_numbers(found, name, num_classes)


def codes_of(value: ArrayLike, name: str, samples: int) -> Tensor:
    """Return whole numbers [N] int64 of 0 or more, such as domains or groups."""
    found = numbers_of(value, name, (samples,), ("N",))
    _check(found == found.round(), found, name, "must be whole numbers")
    return found.to(torch.int64)


def numbers_of(
    value: ArrayLike, name: str, shape: Sequence[int | None], dims: Sequence[str]
) -> Tensor:
    """Return finite numbers of 0 or more, with the sizes of `shape` (None: any)."""
    found = _numbers(value, name)
    _check_shape(found, name, shape, dims)
    _check((found >= 0) & (found < torch.inf), found, name, "must be finite and not negative")
    return found


def features_of(value: ArrayLike, name: str, samples: int | None = None) -> Tensor:
    """Return features [N, D] float32, all finite."""
    found = _numbers(value, name)
    _check_shape(found, name, (samples, None), ("N", "D"))
    _check_sizes(found, name)
    found = found.to(torch.float32)
    _check(torch.isfinite(found), found, name, "must be finite")
    return found


def logits_of(value: ArrayLike, name: str) -> Tensor:
    """Return logits [B, C] in their own precision; a tensor keeps its gradient."""
    found = _numbers(value, name)
    _check_shape(found, name, (None, None), ("B", "C"))
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    return found.to(torch.float32)


def targets_of(value: ArrayLike, name: str, samples: int, num_classes: int) -> Tensor:
    """Return target probabilities [B, C] float32 of probabilities or class numbers [B].

    A row of no annotation, or of the class -1, is all zero.
    """
    found = _numbers(value, name)
    if found.ndim == 1:
        labels = classes_of(found, name, samples, num_classes, "B")
        return annotations_of(labels[:, None], num_classes, name)[:, 0]
    _check_shape(found, name, (samples, num_classes), ("B", "C"))
    return _probabilities(found, name, may_abstain=True)


def plain(tensor: Tensor) -> npt.NDArray[Any]:
    """Return a tensor as an array of NumPy's, which has no bfloat16."""
    found = tensor.detach().cpu()
    array: npt.NDArray[Any] = (found.float() if found.dtype == torch.bfloat16 else found).numpy()
    return array


def _numbers(value: ArrayLike, name: str) -> Tensor:
    """Return a tensor of numbers: float32 or float64, or int64, without a gradient."""
    if isinstance(value, Tensor):
        found = value.detach()
        if found.is_complex():
            raise UserError(f"holds {found.dtype}", key=name, allowed="real numbers")
    else:
        found = _from_numpy(value, name)
    if not found.is_floating_point():
        return found.to(torch.int64)
    return found if found.dtype == torch.float64 else found.to(torch.float32)


def _from_numpy(value: Any, name: str) -> Tensor:
    if value is None:
        raise UserError("must be given", key=name, allowed="an array or a tensor")
    try:
        array = np.asarray(value)
    except ValueError:
        raise UserError("has rows of different lengths", key=name, allowed="an array") from None
    if array.dtype.kind not in "biuf":
        what = "texts" if array.dtype.kind in "SU" else str(array.dtype)
        raise UserError(f"holds {what}", key=name, allowed="numbers")
    kind = np.float64 if array.dtype.kind == "f" and array.itemsize > 4 else np.float32
    return torch.from_numpy(np.array(array, dtype=kind if array.dtype.kind == "f" else np.int64))


def _class_numbers(
    found: Tensor, name: str, num_classes: int | None, allowed: str = "class numbers (-1: none)"
) -> Tensor:
    """Return class numbers as int64, -1 for NaN; check that they are whole and in range.

    allowed: where they are not whole.
    """
    if found.is_floating_point():
        found = torch.where(found.isnan(), float(NO_ANSWER), found)
        _check(found == found.round(), found, name, "must be a whole number", allowed)
    allowed = "0 or more, or -1 for none"
    if num_classes is not None:
        allowed = f"0 .. {num_classes - 1}, or -1 for none"
    inside = found >= NO_ANSWER
    if num_classes is not None:
        inside &= found < num_classes
    _check(inside, found, name, "class {value} does not exist", allowed)
    return found.to(torch.int64)


def _probabilities(found: Tensor, name: str, may_abstain: bool) -> Tensor:
    allowed = SHARE + (", or all 0 for no answer" if may_abstain else "")
    found = found.to(torch.float32)
    _check(torch.isfinite(found), found, name, "must be finite", allowed)
    _check(found >= 0, found, name, "must not be negative", allowed)
    total = found.sum(-1)
    right = (total - 1).abs() <= SUM_ERROR
    if may_abstain:
        right |= total == 0
    _check(right, total, name, "must sum to 1", allowed, what="the row")
    return found


def _check_shape(
    found: Tensor, name: str, shape: Sequence[int | None], dims: Sequence[str]
) -> None:
    """Check the number of dimensions, and the sizes that are known."""
    if found.ndim != len(shape):
        wanted = f"[{', '.join(dims)}]"
        raise UserError(f"has the shape {list(found.shape)}", key=name, allowed=wanted)
    for size, wants, dim in zip(found.shape, shape, dims, strict=True):
        if wants is not None and size != wants:
            things = {"N": "sample", "B": "sample", "T": "teacher", "C": "class"}.get(dim, "column")
            raise UserError(
                f"is for {plural(size, things)}, the other arguments for {wants}",
                key=name,
                allowed=f"[{', '.join(dims)}] with {dim} = {wants}",
            )


def _check_sizes(found: Tensor, name: str) -> None:
    if not found.numel():
        raise UserError(f"has the shape {list(found.shape)}: it is empty", key=name)


def _check(
    right: Tensor,
    found: Tensor,
    name: str,
    problem: str,
    allowed: str | None = None,
    what: str = "the entry",
) -> None:
    """Raise `UserError` with the first entry (or the sum of the first row) that is not right."""
    if bool(right.all()):
        return
    place = (~right).nonzero()[0].tolist()
    value = round(float(found[tuple(place)]), 6)
    number: float = int(value) if value.is_integer() else value
    problem = f"{problem} ({what} {place})"
    raise UserError(problem, key=name, value=number, allowed=allowed)
