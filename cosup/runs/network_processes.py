"""Train networks of the student side by side on the GPUs of this machine."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cosup.config.schema import ExecutionSection
from cosup.data.table import ImageData
from cosup.models.classifier import Classifier
from cosup.models.compute import Compute
from cosup.models.watch import OnStep
from cosup.runs.card_trainings import Cards, Unsent, Write
from cosup.runs.handed_over import Reporting
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
        self.cards = Cards(cards, stop_signal)

    def room(self) -> int:
        """Return the number of cards."""
        return len(self.cards.names)

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
        named = {f"training {number}": job for number, job in enumerate(jobs, start=1)}
        first = next(iter(named))

        def tell(step: int, loss: float, means: Mapping[str, float]) -> None:
            assert on_step is not None, "only then steps are written"
            on_step(step, loss, {name: torch.tensor(mean) for name, mean in means.items()})

        try:
            self.cards.train(
                _train,
                (data, self.cards.share(compute, len(jobs))),
                {
                    name: (job.on_cpu(), on_step is not None and name == first)
                    for name, job in named.items()
                },
                noun="trainings",
                told=tell,
                done=lambda name, state: named[name].classifier.model.load_state_dict(state),
            )
        except Unsent as error:
            log.warning("networks are trained in turn: they cannot be sent (%s)", error)
            return super().networks(jobs, data, compute, on_step)
        return [job.classifier.eval().requires_grad_(False) for job in jobs]


def _train(
    shared: tuple[ImageData, Compute], part: tuple[NetworkJob, bool], write: Write
) -> dict[str, Tensor]:
    """Return the tensors of a network that is trained in this process. part: with whether its steps
    are reported. Raises as `NetworkJob.run`."""
    (data, compute), (job, reports) = shared, part
    job.teachers_to(compute.device)
    report = Reporting(write)

    def on_step(step: int, loss: float, metrics: Mapping[str, Tensor]) -> None:
        means = {name: float(value.float().mean()) for name, value in metrics.items()}
        report(step, job.total_steps, loss, means)

    network = job.run(data, compute, on_step if reports else None)
    return {name: tensor.cpu() for name, tensor in network.model.state_dict().items()}
