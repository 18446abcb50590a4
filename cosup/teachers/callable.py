"""Teachers that are Python functions named in the config: `call:MODULE:FUNCTION`."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosup.data.transforms import EvalTransform
from cosup.errors import RunError, in_short, within
from cosup.settings.teachers import CallKind, import_function, match_kind
from cosup.teachers.base import ImageTeacher, Teacher, Training, restrict
from cosup.teachers.hierarchy import TeacherSpec

__all__ = ["CallableTeacher", "load_callable"]

DEFAULT_SIZE = 224


class CallableTeacher(CallKind, ImageTeacher):
    """Calls a function with images uint8 [B, 3, size, size]; it returns probabilities [B, C].

    A function with a parameter `teacher` gets the teacher's name. Rows must sum to 1, or to 0 to
    abstain. Probabilities outside the teacher's scope are set to 0, and the others rescaled.
    """

    def __init__(self, spec: TeacherSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, steps=0)
        self.called = spec.model.name
        with within(f"{spec.setup.model_key}.name"):
            self.function, self.source = load_callable(self.called)
        self.transform = EvalTransform(spec.model.image_size or DEFAULT_SIZE, crop_pct=1.0)

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        """Import the function."""
        return [cls(spec, len(training.data.classes)) for spec in specs]

    @classmethod
    def check(cls, specs: Sequence[TeacherSpec], training: Training) -> None:
        """Import the function."""
        cls.train(specs, training)

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, Tensor], steps: int
    ) -> Teacher:
        """Import the function again."""
        return cls.train([spec], training)[0]

    @torch.inference_mode()
    def annotate(self, inputs: Tensor) -> Tensor:
        """Return probabilities [B, C].

        Raises `RunError` if the function fails or returns something else.
        """
        named = "teacher" in inspect.signature(self.function).parameters
        try:
            found = self.function(inputs, **({"teacher": self.name} if named else {}))
            probs = torch.as_tensor(found).detach().to("cpu", torch.float32)
        except Exception as error:
            raise RunError(
                f"teacher '{self.name}': {self.called} failed: {in_short(error, named=True)}"
            ) from error
        self._check(probs, len(inputs))
        return restrict(probs, self.support)

    def origin(self) -> str:
        """Return the function's name and a hash of its file."""
        return f"{self.called} {self.name} {self.source}"

    def _check(self, probs: Tensor, count: int) -> None:
        expected = (count, self.num_classes)
        where = f"teacher '{self.name}': {self.called} returned"
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
    """Import the function of `call:MODULE:FUNCTION`; return it and a hash of its file.

    Raises `UserError`, as `import_function` does.
    """
    function = import_function(name)
    file = getattr(sys.modules[match_kind(name).argument.partition(":")[0]], "__file__", None)
    content = Path(file).read_bytes() if file and Path(file).is_file() else b""
    return function, hashlib.sha256(content).hexdigest()
