"""One training step of a network: erase, mix, run live teachers, forward, loss, backward."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosup.errors import UserError
from cosup.losses.base import Metrics, Objective
from cosup.losses.features import Connector
from cosup.models.classifier import Classifier
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.images import Mixing, Pixels
from cosup.models.live_targets import live_targets
from cosup.models.loop_state import States
from cosup.models.ranks import BATCH_NORMS
from cosup.models.training_section import TrainingSection
from cosup.models.watch import OnStep
from cosup.protocols import NetworkOutput
from cosup.seeds import forked_seeds
from cosup.settings import registered_name
from cosup.settings.losses import LOSSES

WARM_UPS = 2

if TYPE_CHECKING:
    from timm.data.random_erasing import RandomErasing

__all__ = [
    "Batch",
    "Batches",
    "Live",
    "Step",
    "TrainContext",
    "TrainModule",
    "check_settings",
]


@dataclass(frozen=True)
class Batch:
    """The samples of one step, on the CPU.

    images: uint8 [B, 3, S, S]. targets: probabilities [Q, C]. weights: [Q], or None for ones.
    labels: true classes [Q] int64 (-1 unknown), or None. teacher: index [B] int64 of the live
    teacher of each image, or None. mixture: [B, T] weights of the live teachers, by which their
    annotations are mixed (a row of zeros: the target stays), or None for `teacher` alone. Q equals
    B, except for episodes: their logits and targets are those of the queries. plain: the images
    without augmentation, for an objective that corrects labels.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None = None
    labels: Tensor | None = None
    teacher: Tensor | None = None
    mixture: Tensor | None = None
    plain: Tensor | None = None


Batches = Callable[[int], Iterator[Batch]]
"""Function of a step (from 0): yields the batches from that step on, always the same ones."""

Live = Callable[[Tensor, Tensor], NetworkOutput]
"""Live teachers: pixels float32 [B, 3, S, S] in 0 .. 255 (except erased ones) and the index of a
teacher [B] int64 of each -> `NetworkOutput`, its logits being log-probabilities."""


@dataclass(frozen=True)
class TrainContext:
    """Seed, compute context, live teachers and callbacks of one training.

    seed: seed of dropout, mixing and erasing. compute: device, precision and ranks; each rank gets
    its own slice of every batch. report: called with the step from 1, the mean loss and metrics;
    every step on a CPU, every 25th elsewhere. states: keeps the loop's state, which is saved every
    `training.save_every` steps (the caller removes it after saving the trained network), or None.
    identity: a hash of what is learned; a state with another hash is ignored. live: networks that
    are run on the augmented images of every batch, or None. live_annotations: replace the targets
    by the probabilities of `live`. hard: by their most probable class. settings: key of the
    training section, for errors. watch: function from the module to metrics that are reported after
    some steps (`is_watched`).
    """

    seed: int = 0
    compute: Compute = DEFAULT_COMPUTE
    report: OnStep | None = None
    states: States | None = None
    identity: str = ""
    live: Live | None = None
    live_annotations: bool = False
    hard: bool = False
    settings: str = "training"
    watch: Callable[[nn.Module], Metrics] | None = None


class TrainModule(nn.Module):
    """A classifier in training, with the connector of a loss on features.

    Any module with this `forward` can be trained. The connector is discarded after training.
    """

    def __init__(self, classifier: Classifier, connector: Connector | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        self.connector = connector

    def forward(
        self, pixels: Tensor, teacher: NetworkOutput | None, progress: float
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits [B, C] of normalised images, and losses [B] of the connector or None.

        teacher: output of the live teachers for the same images.
        """
        if self.connector is None:
            return self.classifier.model(pixels), None
        assert teacher is not None, "a connector needs live teachers"
        seen = self.classifier.outputs(pixels)
        return seen.logits, self.connector(seen, teacher, progress)


class Step:
    """Computes the mean loss of a batch and adds its gradients to those of the module."""

    def __init__(
        self,
        module: nn.Module,
        pixels: Pixels,
        objective: Objective,
        training: TrainingSection,
        context: TrainContext,
    ) -> None:
        self.module = module
        self.pixels = pixels
        self.objective = objective
        self.training = training
        self.context = context
        self.compute = context.compute
        self.mixing = Mixing(training.mixing) if training.mixing.active else None
        chance = training.augment.erase
        device = str(self.compute.device)
        self.erase = _erasing(chance, device) if chance else None
        self.warm = self.compute.ranks.size == 1

    def __call__(self, batch: Batch, progress: float) -> tuple[Tensor, Metrics]:
        """Return the weighted mean loss (detached) and mean metrics over all parts of a batch."""
        total = self._total_weight(batch)
        parts = _parts(batch, self.training.accumulate)
        if not self.warm:
            self._warm_up(parts[0], progress)
        loss, sums = torch.zeros((), device=self.compute.device), dict[str, Tensor]()
        for number, part in enumerate(parts):
            if self.compute.ranks.size == 1:  # else norms use the images of all ranks
                _check_part(part, self.module, self.training)
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last else _unsynced(self.module):
                losses, metrics = self._losses(part, progress)
                share = losses / total
                torch.autograd.backward(share)
            loss += share.detach()
            for name, value in metrics.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value / len(parts)
        return loss, sums

    def _warm_up(self, part: Batch, progress: float) -> None:
        """Run passes of which nothing remains.

        In its first pass, `DistributedDataParallel` finds the weights that get no gradient, and in
        the second the order in which it exchanges the others, on which the last digits of the means
        depend. So that a resumed training has the digits of a whole one, these are no steps.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        with forked_seeds(0, self.compute.device):
            for _ in range(WARM_UPS):
                torch.autograd.backward(self._losses(part, progress)[0])
        for buffer, before in buffers:
            buffer.copy_(before)
        self.module.zero_grad(set_to_none=True)
        self.warm = True

    def _losses(self, part: Batch, progress: float) -> tuple[Tensor, Metrics]:
        """Return the weighted sum of the losses of a part, and its metrics."""
        device = self.compute.device
        x = self.pixels(_staged(part.images, device))
        if self.erase is not None:
            x = self.erase(x)
        shares = None
        if self.mixing is not None:
            x, shares = self.mixing(x)
        seen = self._live(x, part)
        targets, weights = _moved(part.targets, device), part.weights
        if weights is None:
            weights = torch.ones(len(targets), device=device)
        weights = _moved(weights, device)
        if shares is not None:
            targets, weights = shares @ targets, shares @ weights
        if self.context.live_annotations:
            assert seen is not None, "live annotations need live teachers"
            assert part.teacher is not None
            first = part.teacher, seen
            ask = partial(self._ask, x)
            targets = live_targets(ask, first, part.mixture, targets, hard=self.context.hard)
        own = self._own_classes(part, progress)
        with self.compute.autocast(), self.compute.ranks.norms():
            logits, extra = self.module(x, seen, progress)
        labels = _labels(part.labels, shares, logits, own, self.objective.own_labels)
        losses, metrics = self.objective(logits.float(), targets, progress, labels)
        if extra is not None:
            losses = losses + self.objective.annotation_weight * extra.float()
            metrics = {**metrics, "feature_loss": extra.detach().float().mean()}
        return (losses * weights).sum(), metrics

    def _own_classes(self, part: Batch, progress: float) -> Tensor | None:
        """Return the student's own classes [B] of the images without augmentation; None before
        they correct labels. Batch norms learn from these images too, as in the published code."""
        if part.plain is None or not self.objective.corrects(progress):
            return None
        bare = self.module
        if isinstance(bare, nn.parallel.DistributedDataParallel):
            bare = bare.module  # nothing is exchanged
        with torch.no_grad(), self.compute.autocast(), self.compute.ranks.norms():
            assert isinstance(bare, TrainModule)
            logits = bare.classifier.model(self.pixels(_staged(part.plain, self.compute.device)))
        found: Tensor = logits.argmax(1)
        return found

    def _live(self, x: Tensor, part: Batch) -> NetworkOutput | None:
        if self.context.live is None:
            return None
        assert part.teacher is not None, "live teachers need the index of the teacher of each image"
        return self._ask(x, part.teacher)

    def _ask(self, x: Tensor, teacher: Tensor) -> NetworkOutput:
        """Return the output of teacher [B] for each of the normalised images."""
        assert self.context.live is not None
        with torch.no_grad():
            plain = (x - self.pixels.shift) / self.pixels.gain
            return self.context.live(plain, teacher)

    def _total_weight(self, batch: Batch) -> Tensor:
        """Return the total weight of a batch, averaged over ranks as gradients are."""
        rows = torch.ones(len(batch.targets)) if batch.weights is None else batch.weights
        total = _moved(rows.sum().to(torch.float32), self.compute.device)
        return self.compute.ranks.mean(total).clamp_min(1e-12)


def _labels(
    labels: Tensor | None,
    shares: Tensor | None,
    logits: Tensor,
    own: Tensor | None = None,
    own_share: float = 0.0,
) -> Tensor | None:
    """Return labels on the device; the shares of the classes [B, C] for mixed images, and for
    labels of which a share is the student's `own` class [B]."""
    if labels is None:
        return None
    labels = _moved(labels, logits.device)
    if shares is None and own is None:
        return labels
    known = (labels >= 0)[:, None]
    count = logits.shape[1]
    found = (functional.one_hot(labels.clamp_min(0), count) * known).float()
    if own is not None:
        found = (1 - own_share) * found + own_share * functional.one_hot(own, count) * known
    return found if shares is None else shares @ found.to(shares)


def check_settings(objective: Objective, training: TrainingSection) -> None:
    """Raise `UserError` for a loss that cannot be combined with the settings."""
    if training.mixing.active and objective.loss.one_class:
        raise UserError(
            "mixup and cutmix produce targets of several classes, and loss "
            f"'{registered_name(LOSSES, objective.loss)}' needs one class",
            key="mixing",
            allowed="mixup: 0 and cutmix: 0",
        )


def _parts(batch: Batch, count: int) -> list[Batch]:
    """Split the batch into `count` parts of (nearly) equal size."""
    if count == 1:
        return [batch]
    if len(batch.images) != len(batch.targets):
        raise UserError(
            "an episode cannot be split into parts", key="accumulate", value=count, allowed="1"
        )
    names = ("images", "targets", "weights", "labels", "teacher", "mixture", "plain")
    whole = {name: getattr(batch, name) for name in names}
    split = {n: t.tensor_split(count) for n, t in whole.items() if t is not None}
    made = [replace(batch, **{n: t[i] for n, t in split.items()}) for i in range(count)]
    return [part for part in made if len(part.images)]


def _check_part(part: Batch, module: nn.Module, training: TrainingSection) -> None:
    """Raise `UserError` for a single image if the network has batch norms in training mode."""
    if len(part.images) > 1:
        return
    norms = (m for m in module.modules() if isinstance(m, BATCH_NORMS))
    if any(norm.training for norm in norms):
        names = [m.name for m in module.modules() if isinstance(m, Classifier)]
        parts = f"in {training.accumulate} parts " if training.accumulate > 1 else ""
        sample = training.batch_size // training.accumulate > 1
        raise UserError(
            f"{parts}network '{', '.join(names) or type(module).__name__}' gets one image at a "
            f"time{' (there is only one sample)' if sample else ''}; its batch norms need at least "
            "two",
            key="batch_size",
            value=training.batch_size,
        )


def _unsynced(module: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Return a context without exchange of gradients, which happens after the last part only."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()


def _erasing(chance: float, device: str) -> "RandomErasing":
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(chance, mode="pixel", device=device)  # type: ignore[no-untyped-call]


def _staged(images: Tensor, device: torch.device) -> Tensor:
    """Return images in pinned memory for a GPU, so that copying overlaps with computation."""
    return images.pin_memory() if device.type == "cuda" else images


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return it on the device, which need not have finished the step before."""
    on_cpu = tensor.device.type == "cpu"
    ready = _staged(tensor, device) if on_cpu else tensor
    return ready.to(device, non_blocking=device.type == "cuda")
