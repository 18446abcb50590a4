"""The state of a training loop in a file, so that a killed run goes on as if it had not been."""

import hashlib
import json
import logging
from typing import Any

import torch
from torch import nn

from cosup.files import write_atomic
from cosup.losses.base import Objective
from cosup.models.backbones import hash_tensors
from cosup.models.section import TrainingSection
from cosup.models.step import TrainContext
from cosup.seeds import random_states, restore_random_states

__all__ = ["LoopState", "identity_of"]

log = logging.getLogger(__name__)

FORMAT = 2


def identity_of(
    module: nn.Module,
    objective: Objective,
    training: TrainingSection,
    steps: int,
    context: TrainContext,
) -> str:
    """A hash of what the state of a loop fits: the caller's, the settings, where it starts."""
    parts = (
        FORMAT,
        context.identity,
        context.seed,
        context.compute.ranks.size,
        str(context.compute.device),
        context.compute.precision,
        steps,
        training.model_dump(mode="json", exclude={"save_every"}),
        repr(objective),
        hash_tensors(module.state_dict()),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class LoopState:
    """Weights, optimiser, scheduler, averaged weights, step and random states, saved atomically.

    Of distributed processes the first alone reads and writes the file; it hands on what it holds,
    so all go on from the same step.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        ema: nn.Module | None,
        context: TrainContext,
        identity: str,
    ) -> None:
        parts = {"module": module, "optimizer": optimizer, "scheduler": scheduler, "ema": ema}
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.path = context.state
        self.saved = context.saved
        self.device = context.compute.device
        self.ranks = context.compute.ranks
        self.identity = identity

    def save(self, step: int, *, due: bool) -> None:
        """Save after `step` steps, where it is due. Raises `RunError` if the disk is full."""
        if self.path is None or not due:
            return
        states = self.ranks.gathered(random_states(self.device))
        if self.ranks.rank:
            return
        content = {
            "identity": self.identity,
            "step": step,
            "random": states[0],
            "others": states[1:],
            **{name: part.state_dict() for name, part in self.parts.items()},
        }
        write_atomic(self.path, lambda temporary: torch.save(content, temporary))
        if self.saved is not None:
            self.saved(self.path)

    def restore(self) -> int:
        """The number of steps already done: 0 where there is no state, or another one's."""
        if self.path is None:
            return 0
        content = self.ranks.first(None if self.ranks.rank else self._read())
        if content is None:
            return 0
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        states = [content["random"], *content["others"]]
        restore_random_states(states[self.ranks.rank], self.device)
        step = int(content["step"])
        log.info("going on from %s after %d steps", self.path, step)
        return step

    def _read(self) -> dict[str, Any] | None:
        """The file's content, if it is whole and of this training."""
        if self.path is None or not self.path.exists():
            return None
        try:
            # Random states must stay on the CPU; load_state_dict moves what belongs elsewhere.
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity = content["identity"]
            missing = {"step", "random", "others", *self.parts} - set(content)
        except Exception as error:  # a damaged file raises nearly anything
            text = (str(error).splitlines() or [""])[0]
            log.warning("%s can't be read, training starts anew: %s", self.path, text)
            return None
        if identity != self.identity or missing:
            log.warning("%s is of another training, this one starts anew", self.path)
            return None
        return dict(content)
