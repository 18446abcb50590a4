"""The state of a training loop: saved while the loop goes on, and restored bit for bit.

The loop waits until its tensors are copied to memory of the CPU, and no longer: a thread writes the
copy. At most one copy exists at a time.
"""

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cosup.errors import in_short
from cosup.files import write_atomic
from cosup.losses.base import Objective
from cosup.models.compute import Compute
from cosup.models.training_section import TrainingSection
from cosup.models.weights import hash_tensors
from cosup.seeds import random_states, restore_random_states

__all__ = ["LoopState", "StateFile", "States", "Write", "identity_of"]

log = logging.getLogger(__name__)

FORMAT = 2

Write = Callable[[Path], None]
"""Writes a state to a file."""


class States(Protocol):
    """Where the states of a training are kept, until the trained network is."""

    def saved(self) -> Iterator[Path]:
        """Yield files of this machine with the saved states, the latest first.

        Called by the first rank; each file is there until the next one is asked for.
        """
        ...

    def save(self, step: int, write: Write | None) -> None:
        """Begin to save the state after `step` steps, and return.

        Every rank calls it at the same steps, after `wait`; `write` is None on all but the first.
        """
        ...

    def wait(self) -> None:
        """Wait until the state is saved. Raises the error of a `save` that has failed."""
        ...


class StateFile(States):
    """Keeps the latest state in a file, which is replaced atomically. Raises `RunError` for a full
    disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing: Future[None] | None = None

    def saved(self) -> Iterator[Path]:
        """Yield the file, if it exists."""
        if self.path.exists():
            yield self.path

    def save(self, step: int, write: Write | None) -> None:
        """Write the file in a thread."""
        if write is not None:
            threads = ThreadPoolExecutor(1, "cosup-state")
            self._writing = threads.submit(write_atomic, self.path, write)
            threads.shutdown(wait=False)

    def wait(self) -> None:
        """Wait for the thread."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


class LoopState(AbstractContextManager["LoopState"]):
    """Weights, optimiser, scheduler, averaged weights, step and random states.

    Only the first rank reads and writes states, and sends the content to the others, so that all
    ranks resume at the same step. Leaving the context waits for the last save.
    """

    def __init__(
        self, parts: Mapping[str, Any], states: States | None, compute: Compute, identity: str
    ) -> None:
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.states = states
        self.device, self.ranks = compute.device, compute.ranks
        self.identity = identity

    def save(self, step: int) -> None:
        """Begin to save the state after `step` steps. Raises the error of the last save."""
        if self.states is None:
            return
        self.states.wait()
        random = self.ranks.gathered(random_states(self.device))
        self.states.save(step, None if self.ranks.rank else self._writer(step, random))

    def restore(self) -> int:
        """Restore the latest usable state; return its number of completed steps, 0 without one."""
        if self.states is None:
            return 0
        content = self.ranks.first(None if self.ranks.rank else self._latest(self.states))
        if content is None:
            return 0
        for name, part in self.parts.items():
            part.load_state_dict(content[name])
        states = [content["random"], *content["others"]]
        restore_random_states(states[self.ranks.rank], self.device)
        return int(content["step"])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.states is None:
            return
        try:
            self.states.wait()
        except Exception as failure:
            if error is None:
                raise
            log.warning("the state of the training was not saved: %s", in_short(failure))

    def _writer(self, step: int, random: list[dict[str, Any]]) -> Write:
        content = {
            "identity": self.identity,
            "step": step,
            "random": random[0],
            "others": random[1:],
            **{name: _copied(part.state_dict()) for name, part in self.parts.items()},
        }
        return lambda path: torch.save(content, path)

    def _latest(self, states: States) -> dict[str, Any] | None:
        """Return the latest state that is complete and belongs to this training."""
        for path in states.saved():
            content = self._read(path)
            if content is not None:
                log.info("resuming from %s after %d steps", path, content["step"])
                return content
        return None

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            _check_archive(path)
            # Random states must stay on the CPU; load_state_dict moves the other tensors.
            content = torch.load(path, map_location="cpu", weights_only=True)
            identity = content["identity"]
            missing = {"step", "random", "others", *self.parts} - set(content)
        except Exception as error:  # a damaged file raises errors of many kinds
            reason = in_short(error)
            log.warning("%s is not readable, training starts again: %s", path, reason)
            return None
        if identity != self.identity or missing:
            log.warning("%s belongs to another training, this one starts again", path)
            return None
        return dict(content)


def identity_of(
    module: nn.Module,
    objective: Objective,
    training: TrainingSection,
    steps: int,
    seed: int,
    compute: Compute,
    data: str,
) -> str:
    """Return a hash of the training that a saved state belongs to.

    data: a hash of what is learned.
    """
    parts = (
        FORMAT,
        data,
        seed,
        compute.ranks.size,
        compute.device.type,  # a restarted process may get another card
        compute.precision,
        steps,
        {key: value for key, value in training.hashed().items() if key != "save_every"},
        repr(objective),
        hash_tensors(module.state_dict()),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _copied(value: Any) -> Any:
    """Return a state dict with its tensors copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


def _check_archive(path: Path) -> None:
    """Raise an exception for a file of `torch.save` with wrong bytes: `torch.load` does not compare
    the checksums that are in it."""
    with zipfile.ZipFile(path) as archive:
        if (wrong := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{wrong} is not what was written")
