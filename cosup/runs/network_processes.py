"""Train networks side by side on the GPUs of this machine, each in a process that has a card.

The trainings do not depend on each other, and each computes as it would alone, so their numbers do
not depend on the cards or on which ends first.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cosup.config.schema import ExecutionSection
from cosup.data.table import ImageData
from cosup.errors import in_short
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.watch import OnStep
from cosup.runs.handed_over import UNSENT, Lines, Reporting, dump, load
from cosup.runs.side_by_side import VISIBLE, run_side_by_side
from cosup.student.jobs import NetworkJob
from cosup.student.launcher import LocalLauncher

__all__ = ["CardLauncher", "cards_for_trainings"]

log = logging.getLogger(__name__)


def cards_for_trainings(execution: ExecutionSection, cards: Sequence[str]) -> list[str]:
    """Return the cards on which trainings run at once: all, or as many as the section says."""
    most = len(cards) if execution.side_by_side == "auto" else execution.side_by_side
    return list(cards[:most])


class CardLauncher(LocalLauncher):
    """Trains several networks on several cards, and the rest in this process.

    cards: as in CUDA_VISIBLE_DEVICES. stop_signal: `execution.stop_signal`. kept_bytes: as for
    `LocalLauncher`.
    """

    def __init__(self, cards: Sequence[str], stop_signal: str | None, kept_bytes: int = 0) -> None:
        super().__init__(kept_bytes)
        self.cards = cards
        self.stop_signal = stop_signal

    def room(self) -> int:
        """Return the number of cards."""
        return len(self.cards)

    def networks(
        self,
        jobs: Sequence[NetworkJob],
        data: ImageData,
        compute: Compute,
        on_step: OnStep | None,
    ) -> list[Classifier]:
        """Return the classifiers, trained as many at once as there are cards; one alone, and those
        that cannot be sent to other processes, in this one."""
        if len(jobs) < 2:
            return super().networks(jobs, data, compute, on_step)
        with tempfile.TemporaryDirectory(prefix="cosup-trainings-") as folder:
            try:
                tasks = self._write(jobs, data, compute, Path(folder), reports=on_step is not None)
            except UNSENT as error:
                reason = in_short(error)
                log.warning("networks are trained in turn: they cannot be sent (%s)", reason)
                return super().networks(jobs, data, compute, on_step)
            self._train(tasks, on_step)
            for job, task in zip(jobs, tasks, strict=True):
                job.classifier.model.load_state_dict(torch.load(task.result, weights_only=True))
        return [job.classifier.eval().requires_grad_(False) for job in jobs]

    def _write(
        self,
        jobs: Sequence[NetworkJob],
        data: ImageData,
        compute: Compute,
        folder: Path,
        reports: bool,
    ) -> "list[Training]":
        """Write what each training reads to the folder."""
        at_once = min(len(jobs), len(self.cards))
        share = replace(compute, workers=max(1, compute.workers // at_once))
        dump((data, share), folder / "data")
        tasks = []
        for number, job in enumerate(jobs):
            dump(job.on_cpu(), folder / f"job-{number}")
            tasks.append(Training(folder, number, self.stop_signal, reports and number == 0))
        return tasks

    def _train(self, tasks: "Sequence[Training]", on_step: OnStep | None) -> None:
        """Run the trainings; raise the error of the first that fails, after the others ended."""
        errors: dict[str, Exception] = {}
        named = {f"training {task.number + 1}": task for task in tasks}
        lines = Lines(tasks[0].steps)

        def pass_on() -> None:
            for step, loss, means in lines.new():
                assert on_step is not None, "only then steps are written"
                on_step(step, loss, {name: torch.tensor(mean) for name, mean in means.items()})

        run_side_by_side(
            named,
            [{VISIBLE: card} for card in self.cards],
            failed=errors.__setitem__,
            noun="trainings",
            meanwhile=pass_on,
        )
        for name in named:
            if name in errors:
                raise errors[name]


@dataclass(frozen=True)
class Training:
    """The training of a network in a process of its own.

    folder: has what it reads, and gets the network. number: among those of one call. reports:
    whether steps are written.
    """

    folder: Path
    number: int
    stop_signal: str | None
    reports: bool

    @property
    def result(self) -> Path:
        """Return the file of the network's tensors."""
        return self.folder / f"network-{self.number}"

    @property
    def steps(self) -> Path:
        """Return the file of the steps that are reported: a line of JSON each."""
        return self.folder / f"steps-{self.number}"

    def compute(self) -> None:
        """Train the network in this process. Raises as `NetworkJob.run`."""
        data, compute = load(self.folder / "data")
        job: NetworkJob = load(self.folder / f"job-{self.number}")
        job.teachers_to(compute.device)
        with self.steps.open("w", buffering=1) as lines:
            report = Reporting(lines.write)

            def on_step(step: int, loss: float, metrics: Mapping[str, Tensor]) -> None:
                means = {name: float(value.float().mean()) for name, value in metrics.items()}
                report(step, job.total_steps, loss, means)

            network = job.run(data, compute, on_step if self.reports else None)
        torch.save(dict(network.model.state_dict()), self.result)
