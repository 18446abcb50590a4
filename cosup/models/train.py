"""Train a network on images, for students and teachers, on one device or several.

The state of the loop is saved beside it, and a killed run resumes from it bit for bit
(`cosup.models.loop_state`). The caller gives the module, the batches from any step on, the
objective, and a `TrainContext` (seed, compute context, callbacks, where states are kept). The loop
reads no global and keeps no other state, so that a distributed launcher can wrap it.
"""

import contextlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cosup.errors import RunError, within
from cosup.losses.base import Metrics, Objective
from cosup.models.compiled import compiled
from cosup.models.compute import repeatable
from cosup.models.head_steps import CHECK_EVERY
from cosup.models.images import Pixels
from cosup.models.loop_state import LoopState, identity_of
from cosup.models.optimize import build_network_optimizer, build_scheduler
from cosup.models.step import (
    Batch,
    Batches,
    Live,
    Step,
    TrainContext,
    TrainModule,
    check_settings,
)
from cosup.models.training_section import TrainingSection
from cosup.models.watch import is_watched, learning_rate
from cosup.progress import working_on
from cosup.seeds import forked_seeds, seed_for
from cosup.stopping import asked_to_stop, finishing_steps

__all__ = [
    "Batch",
    "Batches",
    "Live",
    "TrainContext",
    "TrainModule",
    "train_network",
]


def train_network(
    module: nn.Module,
    batches: Batches,
    objective: Objective,
    training: TrainingSection,
    steps: int,
    context: TrainContext,
    pixels: Pixels,
) -> nn.Module:
    """Train `module` in place for `steps` optimiser steps and return it, in eval mode.

    module: called with normalised pixels, the live teachers' output (or None) and the progress;
    returns logits [Q, C] and losses [Q] on features, or None (see `TrainModule`). With `ema` it
    ends with the averaged weights. The same inputs and seed give the same weights on one device,
    also after resuming from a saved state.

    Raises `UserError` for settings that cannot be combined, `RunError` for a loss that is not
    finite.
    """
    device, ranks = context.compute.device, context.compute.ranks
    seed = seed_for(context.seed, "train", ranks.rank)
    with within(context.settings), forked_seeds(seed, device), repeatable(device):
        check_settings(objective, training)
        module.to(device).to(memory_format=torch.channels_last).train()
        weights = _Weights.of(module, training, steps)
        state = _loop_state(weights, objective, steps, context)
        start = state.restore()
        with compiled(module, training.compile), contextlib.ExitStack() as stack:
            if context.states is not None and ranks.size == 1:
                stack.enter_context(finishing_steps())
            stack.enter_context(state)
            wrapped = stack.enter_context(ranks.wrapped(module))
            run = Step(wrapped, pixels.to(device), objective, training, context)
            monitor = _LossMonitor(training, steps, context)
            stream = batches(start)
            stack.callback(_close, stream)
            advance = stack.enter_context(working_on("training a network: step", steps - start))
            for step, batch in zip(range(start, steps), stream, strict=False):
                weights.begin(step)
                loss, metrics = run(batch, step / max(1, steps - 1))
                loss, metrics = monitor.check(step, loss, metrics)
                weights.update()
                stops = asked_to_stop()
                if stops or (step + 1) % training.save_every == 0:
                    state.save(step + 1)
                metrics = {**metrics, **learning_rate(weights.optimizer)}
                monitor.report(step, loss, metrics, weights.averaged)
                advance(1)
                if stops:
                    break
    if weights.ema is not None:
        module.load_state_dict(weights.averaged.state_dict())
    monitor.end(module)
    return module.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


@dataclass(frozen=True)
class _Weights:
    """The weights of a module, and what changes them in a step.

    ema: keeps their running average, if the settings ask for one.
    """

    module: nn.Module
    training: TrainingSection
    optimizer: torch.optim.Optimizer
    scheduler: Any
    ema: Any

    @classmethod
    def of(cls, module: nn.Module, training: TrainingSection, steps: int) -> "_Weights":
        """Return the weights before the first step."""
        from timm.utils.model_ema import ModelEmaV3

        optimizer = build_network_optimizer(module, training)
        scheduler = build_scheduler(optimizer, training, steps)
        ema = None if training.ema is None else ModelEmaV3(module, decay=training.ema)
        return cls(module, training, optimizer, scheduler, ema)

    @property
    def averaged(self) -> nn.Module:
        """The module with the averaged weights; the module itself without an average."""
        averaged: nn.Module = self.module if self.ema is None else self.ema.module
        return averaged

    def begin(self, step: int) -> None:
        """Set the learning rate of a step (from 0), and clear the gradients."""
        self.scheduler.step_update(step)
        self.optimizer.zero_grad(set_to_none=True)

    def update(self) -> None:
        """Change the weights by their gradients."""
        if self.training.clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.training.clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.module)


def _loop_state(
    weights: _Weights, objective: Objective, steps: int, context: TrainContext
) -> LoopState:
    """Return the state of a loop before its first step. `identity_of` reads the whole network."""
    compute, identity, module = context.compute, "", weights.module
    if context.states is not None:
        seed, training = context.seed, weights.training
        identity = identity_of(module, objective, training, steps, seed, compute, context.identity)
    parts = {
        "module": module,
        "optimizer": weights.optimizer,
        "scheduler": weights.scheduler,
        "ema": weights.ema,
    }
    return LoopState(parts, context.states, compute, identity)


def _close(stream: Iterator[Batch]) -> None:
    """Close a generator of batches, which ends its worker processes."""
    if isinstance(stream, Generator):
        stream.close()


class _LossMonitor:
    """Stops a training whose loss is not finite, and reports the loss to the callback.

    Checks every step on a CPU. On other devices, where a check waits for the device: the first, the
    last and every `CHECK_EVERY`th step, and those before a save.
    """

    def __init__(self, training: TrainingSection, total: int, context: TrainContext) -> None:
        self.training = training
        self.total = total
        self.every = 1 if context.compute.device.type == "cpu" else CHECK_EVERY
        self.on_step, self.watch = context.report, context.watch
        self.settings = context.settings
        self.ranks = context.compute.ranks

    def check(self, step: int, loss: Tensor, metrics: Metrics) -> tuple[Tensor, Metrics]:
        """Check the loss before the weights change in a step (from 0).

        Returns the means over the ranks in the steps that are checked, so that all ranks stop at
        the same step.
        """
        if not self._checks(step) and (step + 1) % self.training.save_every:
            return loss, metrics
        loss, metrics = self.ranks.means(loss, metrics)
        if not math.isfinite(float(loss)):
            raise RunError(self._diverged(step + 1))
        return loss, metrics

    def report(self, step: int, loss: Tensor, metrics: Metrics, module: nn.Module) -> None:
        """Report the loss of a step (from 0), and what is watched of the module after it."""
        if self.on_step is None or not self._checks(step):
            return
        if self.watch is not None and is_watched(step + 1, self.total):
            metrics = {**metrics, **self.watch(module)}
        self.on_step(step + 1, float(loss), metrics)

    def end(self, module: nn.Module) -> None:
        """Raise `RunError` if the last step made a weight infinite."""
        if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
            raise RunError(self._diverged(self.total))

    def _checks(self, step: int) -> bool:
        return (step + 1) % self.every == 0 or step in (0, self.total - 1)

    def _diverged(self, step: int) -> str:
        section = self.settings  # the meta stage has no clip
        clip = f", or {section}.clip," if section.endswith("training") else ""
        return (
            f"the loss is not finite at step {step} of {self.total}; a smaller "
            f"{section}.lr ({self.training.lr:g}){clip} may help (with --overwrite)"
        )
