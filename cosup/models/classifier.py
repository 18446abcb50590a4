"""What a network sees on the way to its logits: the maps of its stages and its embedding.

All of it comes out of one forward pass through timm's own feature extraction, so that batch norm,
dropout and stochastic depth act once.

Classifiers: whole networks from images to class logits, for those that are trained here.

What a network says of images: one pass without augmentation.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timm.layers.classifier import ClassifierHead
from torch import Tensor, nn

from cosup.errors import UserError
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.images import InputSpec, Pixels
from cosup.models.networks import build_network, with_classifier
from cosup.models.weights import load_into, read_weights
from cosup.probabilities import ProbTable
from cosup.protocols import FeatureShapes, NetworkOutput
from cosup.seeds import seed_for

__all__ = [
    "embedding",
    "evaluating",
    "feature_names",
    "is_plain",
    "see",
    "shapes_of",
]


def see(
    name: str, model: nn.Module, last: Sequence[nn.Module], pixels: Tensor, plain: bool = False
) -> NetworkOutput:
    """Logits, maps [B, C, h, w] of the stages in order, and the embedding [B, D].

    name: of the network, for errors. last: the layers that give the logits. pixels: normalised
    images [B, 3, H, W]. plain: as `is_plain` says; it saves the hooks, for which torch.compile
    would compile anew in every step. Raises `UserError` for networks that give no feature maps.
    """
    network: Any = model
    if plain:
        features, maps = network.forward_intermediates(pixels, output_fmt="NCHW")
        pooled = network.forward_head(features, pre_logits=True)
        return NetworkOutput(last[0](pooled), tuple(maps), pooled)
    if hasattr(model, "forward_intermediates"):
        with _caught(last) as inputs:
            features, maps = network.forward_intermediates(pixels, output_fmt="NCHW")
            logits: Tensor = network.forward_head(features)
        return NetworkOutput(logits, tuple(maps), _joined(inputs))
    stages = feature_names(model)
    if not stages:
        raise UserError(
            f"network '{name}' gives no feature maps (allowed: timm's networks, and cosup's "
            "cifar_...)"
        )
    with _caught(last) as inputs, _caught([model.get_submodule(s) for s in stages], 1) as outputs:
        logits = model(pixels)
    return NetworkOutput(logits, tuple(outputs), _joined(inputs))


def is_plain(model: nn.Module, last: Sequence[nn.Module], pixels: Tensor) -> bool:
    """Whether the logits are one linear layer on timm's `pre_logits`, as in most families.

    Found by trying it on an image: some add another head's share (VOLO).
    """
    network: Any = model
    if not hasattr(model, "forward_intermediates") or [type(m) for m in last] != [nn.Linear]:
        return False
    features = network.forward_features(pixels)
    pooled, logits = network.forward_head(features, pre_logits=True), network.forward_head(features)
    if pooled.dim() != 2 or pooled.shape[1] != last[0].in_features:
        return False
    return bool(torch.allclose(last[0](pooled), logits, rtol=1e-3, atol=1e-5))


def embedding(model: nn.Module, last: Sequence[nn.Module], pixels: Tensor) -> Tensor:
    """What the last layers read, [B, D], of normalised images; of any network."""
    with _caught(last) as inputs:
        model(pixels)
    return _joined(inputs)


def shapes_of(seen: NetworkOutput, model: nn.Module) -> FeatureShapes:
    """The shapes of what a network sees, without the batch."""
    assert seen.embedding is not None
    maps = tuple((m.shape[1], m.shape[2], m.shape[3]) for m in seen.maps)
    names = feature_names(model)
    known = names if len(names) == len(maps) else tuple(map(str, range(len(maps))))
    return FeatureShapes(maps, seen.embedding.shape[1], known)


def feature_names(model: nn.Module) -> tuple[str, ...]:
    """The submodules whose outputs are the network's maps, as far as timm says."""
    return tuple(str(entry["module"]) for entry in getattr(model, "feature_info", ()))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of `model` in eval mode, each put back to its own mode after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _caught(modules: Sequence[nn.Module], which: int = 0) -> Iterator[list[Tensor]]:
    """Gather the inputs (which 0) or outputs (1) of submodules, in the order they run."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        caught.append(output if which else inputs[0])

    handles = [module.register_forward_hook(catch) for module in modules]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _joined(inputs: Sequence[Tensor]) -> Tensor:
    """[B, D]: side by side, where several layers give the logits (distilled, or in parallel)."""
    flat = [tensor.flatten(1) for tensor in inputs]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


class Classifier(nn.Module):
    """uint8 images [B, 3, H, W] -> logits [B, C].

    `model` keeps the library's own names, so its `state_dict` loads wherever timm's does. slot: as
    of `Network`.
    """

    def __init__(
        self, name: str, model: nn.Module, spec: InputSpec, num_classes: int, slot: str = ""
    ) -> None:
        super().__init__()
        self.name = name
        self.input = spec
        self.num_classes = num_classes
        self.slot = slot
        self.plain: bool | None = None
        self.pixels = Pixels(spec)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits, on the classifier's device."""
        logits: Tensor = self.model(self.pixels(images))
        return logits

    def see(self, pixels: Tensor) -> NetworkOutput:
        """Logits, feature maps and embedding of normalised images [B, 3, H, W], by one pass.

        The logits are those of `model(pixels)`. Raises `UserError` for networks that give no
        feature maps.
        """
        if self.plain is None:
            with torch.no_grad(), evaluating(self.model):
                self.plain = is_plain(self.model, self._last(), self._black())
        return see(self.name, self.model, self._last(), pixels, self.plain)

    def shapes(self) -> FeatureShapes:
        """Of what `see` gives for images of the input's size; raises as it does."""
        with torch.no_grad(), evaluating(self.model):
            return shapes_of(self.see(self._black()), self.model)

    def embed(self, images: Tensor) -> Tensor:
        """What the last layer reads, [B, D], of uint8 images [B, 3, H, W]: pooled features."""
        return self.pooled(self.pixels(images))

    def pooled(self, pixels: Tensor) -> Tensor:
        """As `embed`, of normalised images."""
        return embedding(self.model, self._last(), pixels)

    def _black(self) -> Tensor:
        """One image, as the network reads it."""
        size = self.input.size
        return torch.zeros(1, 3, size, size, device=self.pixels.gain.device)

    def _last(self) -> Sequence[nn.Module]:
        """The layers that give the logits: most networks have one."""
        if self.slot:
            return [self.model.get_submodule(self.slot)]
        model: Any = self.model
        found = model.get_classifier()
        layers = found if isinstance(found, tuple | list | nn.ModuleList) else [found]
        # Sequencer's classifier pools first.
        return [layer.fc if isinstance(layer, ClassifierHead) else layer for layer in layers]


def build_classifier(
    name: str,
    num_classes: int,
    weights: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    drop_path: float = 0.0,
) -> Classifier:
    """A network with a fresh classifier, random (by seed) or from a backbone's weights.

    `name`, `weights` and `drop_path` as of `build_network`; raises `UserError` as it does. It
    starts in eval mode, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "classifier"))
        network = build_network(name, weights, image_size, drop_path)
        model = with_classifier(network, num_classes)
    return Classifier(name, model, network.input, num_classes, network.slot).eval()


def load_checkpoint(classifier: Classifier, path: str | Path) -> None:
    """Load a trained classifier over all of the task's classes, its last layer included.

    Raises `UserError` naming the file and the first tensors that don't fit.
    """
    load_into(classifier.model, read_weights(str(path)), str(path))


@torch.inference_mode()
def predict_network(
    classifier: Classifier,
    batches: Iterable[Tensor],
    compute: Compute = DEFAULT_COMPUTE,
) -> ProbTable:
    """Probabilities of images, one row each and in their order.

    batches: uint8 [B, 3, S, S]. The classifier is moved to the device and put into eval mode.
    """
    classifier.to(compute.device).eval()
    tables = [ProbTable.compress(torch.zeros(0, classifier.num_classes))]
    for images in batches:
        with compute.autocast():
            logits = classifier(images)
        tables.append(ProbTable.compress(logits.float().softmax(-1).cpu()))
    return ProbTable.concat(tables)
