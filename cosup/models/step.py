"""What `train_network` is given: batches, what is trained, and where.

One step of training a network: erase, mix, ask the live teachers, forward, loss, backward.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.nn import functional

from cosup.errors import UserError
from cosup.losses.base import Metrics, Objective
from cosup.losses.features import Connector
from cosup.models.classifier import Classifier
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.fit import OnStep
from cosup.models.images import Mixing, Pixels
from cosup.models.networks import BATCH_NORMS
from cosup.models.section import TrainingSection
from cosup.protocols import NetworkOutput
from cosup.settings import registered_name
from cosup.settings.losses import LOSSES

__all__ = [
    "Batch",
    "Batches",
    "Live",
    "Step",
    "TrainContext",
    "Trainee",
    "check_settings",
    "compiled",
]


@dataclass(frozen=True)
class Batch:
    """One step's samples, on the CPU.

    images: uint8 [B, 3, S, S]. targets: probabilities [Q, C]. weights: [Q], or None for ones.
    labels: true classes [Q] int64 (-1 unknown), or None. teacher: the index [B] int64 of the
    teacher that a live one asks. Q is B, but for episodes, whose logits are of their queries.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor | None = None
    labels: Tensor | None = None
    teacher: Tensor | None = None


Batches = Callable[[int], Iterator[Batch]]
"""The batches from this step (from 0) on; the same ones whatever step they are asked from."""

Live = Callable[[Tensor, Tensor], NetworkOutput]
"""What teachers see now: pixels float32 [B, 3, S, S] in 0 .. 255 (but for erased ones) and the
teacher [B] int64 of each -> `NetworkOutput`, its logits being log-probabilities."""


@dataclass(frozen=True)
class TrainContext:
    """Seed, compute context, live teachers and callbacks of one training.

    seed: seed of dropout, mixing and erasing. compute: device, precision and ranks; each rank gets
    its own slice of every batch. report: called with the step from 1, the mean loss and metrics;
    every step on a CPU, every 25th elsewhere. state: file of the loop's state, written every
    `training.save_every` steps (read and written by rank 0; the caller removes it after saving the
    trained network). saved: called after the state was written. identity: a hash of what is
    trained; a state with another hash is ignored. live: networks that are run on the augmented
    images of every batch, or None. live_annotations: replace the targets by the probabilities of
    `live`. settings: key of the training section, for errors.
    """

    seed: int = 0
    compute: Compute = DEFAULT_COMPUTE
    report: OnStep | None = None
    state: Path | None = None
    saved: Callable[[Path], None] | None = None
    identity: str = ""
    live: Live | None = None
    live_annotations: bool = False
    settings: str = "training"


class Trainee(nn.Module):
    """A classifier in training: (pixels, what the teacher sees, progress) -> logits and, where a
    connector compares the two, the per-sample losses of the features.

    Any module with this call can be trained. The connector is thrown away after.
    """

    def __init__(self, classifier: Classifier, connector: Connector | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        self.connector = connector

    def forward(
        self, pixels: Tensor, teacher: NetworkOutput | None, progress: float
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [B, C] and losses [B] (or None) of normalised images [B, 3, S, S]."""
        if self.connector is None:
            return self.classifier.model(pixels), None
        assert teacher is not None, "a connector needs live teachers"
        seen = self.classifier.see(pixels)
        return seen.logits, self.connector(seen, teacher, progress)


class Step:
    """Computes a batch's mean loss and adds its gradients to the module's."""

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

    def __call__(self, batch: Batch, progress: float) -> tuple[Tensor, Metrics]:
        """The weighted mean loss (detached) and mean metrics of a batch, all its parts together."""
        total = self._total_weight(batch)
        parts = _parts(batch, self.training.accumulate)
        loss, sums = torch.zeros((), device=self.compute.device), dict[str, Tensor]()
        for number, part in enumerate(parts):
            if self.compute.ranks.size == 1:  # else norms look at the others' images too
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

    def _losses(self, part: Batch, progress: float) -> tuple[Tensor, Metrics]:
        """The weighted sum of a part's losses, and metrics."""
        device = self.compute.device
        x = self.pixels(_staged(part.images, device))
        if self.erase is not None:
            x = self.erase(x)
        shares = None
        if self.mixing is not None:
            x, shares = self.mixing(x)
        seen = self._live(x, part)
        targets, weights = part.targets.to(device), part.weights
        weights = torch.ones(len(targets), device=device) if weights is None else weights.to(device)
        if shares is not None:
            targets, weights = shares @ targets, shares @ weights
        if self.context.live_annotations:
            assert seen is not None, "live annotations need live teachers"
            targets = seen.logits.float().exp()
        with self.compute.autocast(), self.compute.ranks.norms():
            logits, extra = self.module(x, seen, progress)
        labels = _labels(part.labels, shares, logits)
        losses, metrics = self.objective(logits.float(), targets, progress, labels)
        if extra is not None:
            losses = losses + self.objective.annotation_weight * extra.float()
            metrics = {**metrics, "feature_loss": extra.detach().float().mean()}
        return (losses * weights).sum(), metrics

    def _live(self, x: Tensor, part: Batch) -> NetworkOutput | None:
        if self.context.live is None:
            return None
        assert part.teacher is not None, "live teachers need to know which of them to ask"
        with torch.no_grad():
            plain = (x - self.pixels.shift) / self.pixels.gain
            return self.context.live(plain, part.teacher.to(x.device))

    def _total_weight(self, batch: Batch) -> Tensor:
        """The batch's weight; of distributed ones the mean over ranks, as gradients are."""
        rows = torch.ones(len(batch.targets)) if batch.weights is None else batch.weights
        total = rows.sum().to(self.compute.device, torch.float32)
        return self.compute.ranks.mean(total).clamp_min(1e-12)


def _labels(labels: Tensor | None, shares: Tensor | None, logits: Tensor) -> Tensor | None:
    """Labels on the device; mixed images have no single one, but each image's in its share."""
    if labels is None:
        return None
    labels = labels.to(logits.device)
    if shares is None:
        return labels
    known = (labels >= 0)[:, None]
    return shares @ (functional.one_hot(labels.clamp_min(0), logits.shape[1]) * known).to(shares)


def check_settings(objective: Objective, training: TrainingSection) -> None:
    """Raise `UserError` for a loss and settings that don't go together."""
    if training.mixing.active and objective.loss.one_class:
        raise UserError(
            "mixing: mixup and cutmix make targets of several classes; loss "
            f"'{registered_name(LOSSES, objective.loss)}' needs one (set mixup and cutmix to 0)"
        )


@contextlib.contextmanager
def compiled(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Compile the classifiers within, and undo it after; `UserError` if that fails."""
    if not wanted:
        yield
        return
    # Private: torch.compile has no public exception. Imported here because it is slow to import.
    from torch._dynamo.exc import TorchDynamoException

    found = [part for part in module.modules() if isinstance(part, Classifier)]
    try:
        for part in found:
            part.model.__dict__["forward"] = torch.compile(part.model.forward)
            part.__dict__["see"] = torch.compile(part.see)
        yield
    except TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = lines[0][:200] if lines else type(error).__name__
        raise UserError(
            f"compile: true, but torch.compile fails here ({text}); it needs a working "
            "compiler (allowed without one: false)"
        ) from error
    finally:
        for part in found:
            part.model.__dict__.pop("forward", None)
            part.__dict__.pop("see", None)


def _parts(batch: Batch, count: int) -> list[Batch]:
    """The batch in `count` parts of (nearly) equal size."""
    if count == 1:
        return [batch]
    if len(batch.images) != len(batch.targets):
        raise UserError(
            f"accumulate: {count}, but an episode can't be worked through in parts (allowed: 1)"
        )
    names = ("images", "targets", "weights", "labels", "teacher")
    whole = {name: getattr(batch, name) for name in names}
    split = {n: t.tensor_split(count) for n, t in whole.items() if t is not None}
    made = [replace(batch, **{n: t[i] for n, t in split.items()}) for i in range(count)]
    return [part for part in made if len(part.images)]


def _check_part(part: Batch, module: nn.Module, training: TrainingSection) -> None:
    """Raise `UserError` for one image where a network's batch norm needs two."""
    if len(part.images) > 1:
        return
    norms = (m for m in module.modules() if isinstance(m, BATCH_NORMS))
    if any(norm.training for norm in norms):
        names = [m.name for m in module.modules() if isinstance(m, Classifier)]
        parts = f" in {training.accumulate} parts" if training.accumulate > 1 else ""
        sample = training.batch_size // training.accumulate > 1
        raise UserError(
            f"batch_size: {training.batch_size}{parts} gives network "
            f"'{', '.join(names) or type(module).__name__}' one image at a time"
            f"{' (there is but one sample)' if sample else ''}; its batch norm needs at least two"
        )


def _unsynced(module: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Distributed modules exchange gradients after the last part alone."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()


def _erasing(chance: float, device: str) -> RandomErasing:
    return RandomErasing(chance, mode="pixel", device=device)  # type: ignore[no-untyped-call]


def _staged(images: Tensor, device: torch.device) -> Tensor:
    """In pinned memory for a GPU, so that copying goes on while it computes."""
    return images.pin_memory() if device.type == "cuda" else images
