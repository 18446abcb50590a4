"""Trainings side by side on the GPUs of this machine, each in a process that has a card.

The trainings do not depend on each other, and each computes as it would alone, so their numbers do
not depend on the cards or on which ends first.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cosup.errors import in_short
from cosup.models.compute import Compute
from cosup.runs.handed_over import UNSENT, Lines, dump, load
from cosup.runs.side_by_side import VISIBLE, run_side_by_side

__all__ = ["Cards", "Train", "Unsent"]

Write = Callable[[str], object]
"""Writes a line of steps (`cosup.runs.handed_over.Reporting`)."""
Train = Callable[[Any, Any, Write], Any]
"""Trains in another process: (what all trainings read, what this one reads, write) -> its result.
It is a function at the top of a module."""


class Unsent(Exception):
    """Trainings cannot be sent to other processes. The message says why, in a few words."""


@dataclass(frozen=True)
class Cards:
    """The GPUs on which trainings run. names: as in CUDA_VISIBLE_DEVICES. stop_signal:
    `execution.stop_signal`."""

    names: Sequence[str]
    stop_signal: str | None

    def share(self, compute: Compute, count: int) -> Compute:
        """Return what each of so many trainings computes with: its share of the workers."""
        at_once = min(count, len(self.names))
        return replace(compute, workers=max(1, compute.workers // at_once))

    def train(
        self,
        train: Train,
        shared: Any,
        parts: Mapping[str, Any],
        *,
        noun: str,
        told: Callable[..., object],
        done: Callable[[str, Any], object],
    ) -> None:
        """Run trainings, as many at once as there are cards.

        shared: what all read. parts: what each reads, by its name in the log. noun: of them, for
        the progress. told: called with the content of each line that one writes. done: called with
        the name and result of each that succeeds, in the order of parts, when all have ended.
        Raises `Unsent` before any starts, and afterwards the error of the first that fails.
        """
        failed: dict[str, Exception] = {}
        with tempfile.TemporaryDirectory(prefix=f"cosup-{noun}-") as name:
            folder = Path(name)
            tasks = {
                name: CardTraining(folder, number, train, self.stop_signal)
                for number, name in enumerate(parts)
            }
            try:
                dump(shared, folder / "shared")
                for name, task in tasks.items():
                    dump(parts[name], task.part)
            except UNSENT as error:
                raise Unsent(in_short(error)) from error
            lines = [Lines(task.steps) for task in tasks.values()]
            run_side_by_side(
                tasks,
                [{VISIBLE: card} for card in self.names],
                failed=failed.__setitem__,
                noun=noun,
                meanwhile=lambda: [told(*line) for one in lines for line in one.new()],
            )
            for name, task in tasks.items():
                if name not in failed:
                    done(name, load(task.result))
        for name in tasks:
            if name in failed:
                raise failed[name]


@dataclass(frozen=True)
class CardTraining:
    """A training in a process of its own. folder: has what it reads, and gets its result. number:
    among those of one call."""

    folder: Path
    number: int
    train: Train
    stop_signal: str | None

    @property
    def part(self) -> Path:
        """Return the file of what it reads alone."""
        return self.folder / f"part-{self.number}"

    @property
    def steps(self) -> Path:
        """Return the file of the steps that are reported: a line of JSON each."""
        return self.folder / f"steps-{self.number}"

    @property
    def result(self) -> Path:
        """Return the file of its result."""
        return self.folder / f"result-{self.number}"

    def compute(self) -> None:
        """Train in this process. Raises as `train`."""
        shared, part = load(self.folder / "shared"), load(self.part)
        with self.steps.open("w", buffering=1) as lines:
            result = self.train(shared, part, lines.write)
        dump(result, self.result)
