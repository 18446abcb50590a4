"""A teacher that is any Python callable named in the config: `call:MODULE:FUNCTION`."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import EvalTransform
from cosup.errors import RunError, UserError
from cosup.models.compute import Compute
from cosup.settings.teachers import CallKind, match_kind
from cosup.teachers.base import Rows, Teacher, Training, restrict
from cosup.teachers.hierarchy import TeacherSpec

__all__ = ["CallableTeacher", "load_callable"]

DEFAULT_SIZE = 224


class CallableTeacher(CallKind, Teacher):
    """Hands images uint8 [B, 3, size, size] to a function, which gives probabilities [B, C].

    A function with a parameter `teacher` is told the teacher's name. Rows must sum to 1, or to 0
    where it abstains; mass outside the teacher's scope is taken away and the rest scaled up.
    """

    def __init__(self, spec: TeacherSpec, name: str, num_classes: int, size: int) -> None:
        super().__init__(spec, num_classes, steps=0)
        self.called = name
        self.function, self.source = load_callable(name)
        self.transform = EvalTransform(size, crop_pct=1.0)

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Nothing to train: import the function."""
        model = training.section.model
        size = model.image_size or DEFAULT_SIZE
        return [cls(spec, model.name, len(training.data.classes), size) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Import the function."""
        cls.train(specs, training)

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """The same as `train`."""
        return cls.train([spec], training)[0]

    @property
    def reads(self) -> str:
        """Its transform."""
        return self.transform.key

    def inputs(self, data: ImageData, rows: Rows, compute: Compute) -> Iterator[Tensor]:
        """Images uint8 [B, 3, size, size]."""
        return image_batches(data, rows, self.transform, compute.batch_size, compute.workers)

    @torch.inference_mode()
    def annotate(self, inputs: Tensor) -> Tensor:
        """Probabilities [B, C]. Raises `RunError` if the function fails or gives anything else."""
        named = "teacher" in inspect.signature(self.function).parameters
        try:
            found = self.function(inputs, **({"teacher": self.name} if named else {}))
            probs = torch.as_tensor(found).detach().to("cpu", torch.float32)
        except Exception as error:
            raise RunError(
                f"teacher '{self.name}': {self.called} failed: {type(error).__name__}: {error}"
            ) from error
        self._check(probs, len(inputs))
        return restrict(probs, self.support)

    def origin(self) -> str:
        """The function's name and a hash of its file."""
        return f"{self.called} {self.name} {self.source}"

    def _check(self, probs: Tensor, count: int) -> None:
        expected = (count, self.num_classes)
        where = f"teacher '{self.name}': {self.called} gave"
        if tuple(probs.shape) != expected:
            raise RunError(f"{where} an array of shape {tuple(probs.shape)} (allowed: {expected})")
        if not bool((torch.isfinite(probs) & (probs >= 0)).all()):
            raise RunError(f"{where} probabilities that are negative or not finite")
        total = probs.sum(1)
        off = ((total - 1).abs() > 0.01) & (total != 0)
        if bool(off.any()):
            worst = float(total[off][0])
            raise RunError(f"{where} probabilities that sum to {worst:g} (allowed: 1, or 0)")


def load_callable(name: str) -> tuple[Callable[..., Any], str]:
    """The function of `call:MODULE:FUNCTION`, and a hash of the file it stands in.

    Modules are found as Python finds them, and in the working directory. Raises `UserError`.
    """
    setting = f"teachers.model.name: '{name}'"
    module_name, _, function_name = match_kind(name).argument.partition(":")
    if not module_name or not function_name:
        raise UserError(f"{setting} (allowed: call:MODULE:FUNCTION)")
    sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{setting}: can't import '{module_name}': {type(error).__name__}: {text}"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"{setting}: '{module_name}' has no function '{function_name}'")
    file = getattr(module, "__file__", None)
    content = Path(file).read_bytes() if file and Path(file).is_file() else b""
    return function, hashlib.sha256(content).hexdigest()
