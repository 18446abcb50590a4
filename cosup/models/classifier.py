"""Classifiers: whole networks that map images to class logits, with their feature maps.

Logits, maps of the stages and embedding come from one forward pass through timm's feature
extraction, so that batch norm, dropout and stochastic depth are applied once.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosup.errors import UserError
from cosup.models.compute import DEFAULT_COMPUTE, Compute
from cosup.models.copies import on_cpu
from cosup.models.images import InputSpec, Pixels
from cosup.models.networks import build_network, with_classifier
from cosup.models.weights import load_into, read_weights
from cosup.probabilities import ProbTable
from cosup.protocols import FeatureShapes, NetworkOutput
from cosup.seeds import seed_for

__all__ = [
    "Classifier",
    "build_classifier",
    "embedding",
    "evaluating",
    "feature_names",
    "load_checkpoint",
    "network_output",
    "predict_network",
]


def network_output(
    name: str,
    model: nn.Module,
    last: Sequence[nn.Module],
    pixels: Tensor,
    linear_logits: bool = False,
) -> NetworkOutput:
    """Return logits, maps [B, C, h, w] of the stages in order, and the embedding [B, D].

    name: of the network, for errors. last: layers that compute the logits. pixels: normalised
    images [B, 3, H, W]. linear_logits: result of `_has_linear_logits`; if true, no hooks are
    needed, with which torch.compile would recompile in every step. Raises `UserError` for networks
    without feature maps.
    """
    network: Any = model
    if linear_logits:
        features, maps = network.forward_intermediates(pixels, output_fmt="NCHW")
        pooled = network.forward_head(features, pre_logits=True)
        return NetworkOutput(last[0](pooled), tuple(maps), pooled)
    if hasattr(model, "forward_intermediates"):
        with _captured(last) as inputs:
            features, maps = network.forward_intermediates(pixels, output_fmt="NCHW")
            logits: Tensor = network.forward_head(features)
        return NetworkOutput(logits, tuple(maps), _concatenated(inputs))
    stages = feature_names(model)
    if not stages:
        raise UserError(
            "network {value} gives no feature maps",
            value=name,
            allowed="timm's networks, and cosup's cifar_...",
        )
    with (
        _captured(last) as inputs,
        _captured([model.get_submodule(s) for s in stages], 1) as outputs,
    ):
        logits = model(pixels)
    return NetworkOutput(logits, tuple(outputs), _concatenated(inputs))


def _has_linear_logits(model: nn.Module, last: Sequence[nn.Module], pixels: Tensor) -> bool:
    """Return whether the logits are one linear layer on timm's `pre_logits`, as in most families.

    Tested with an image, because some networks add the logits of another head (VOLO).
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
    """Return the input [B, D] of the last layers for normalised images, for any network."""
    with _captured(last) as inputs:
        model(pixels)
    return _concatenated(inputs)


def _shapes(output: NetworkOutput, model: nn.Module) -> FeatureShapes:
    """Return the shapes of a network's output, without the batch."""
    assert output.embedding is not None
    maps = tuple((m.shape[1], m.shape[2], m.shape[3]) for m in output.maps)
    names = feature_names(model)
    known = names if len(names) == len(maps) else tuple(map(str, range(len(maps))))
    return FeatureShapes(maps, output.embedding.shape[1], known)


def feature_names(model: nn.Module) -> tuple[str, ...]:
    """Return the submodules whose outputs are the network's maps, as far as timm lists them."""
    return tuple(str(entry["module"]) for entry in getattr(model, "feature_info", ()))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set all submodules to eval mode, and restore their modes afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _captured(modules: Sequence[nn.Module], which: int = 0) -> Iterator[list[Tensor]]:
    """Collect the inputs (which 0) or outputs (1) of submodules, in the order of execution."""
    captured: list[Tensor] = []

    def capture(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        captured.append(output if which else inputs[0])

    handles = [module.register_forward_hook(capture) for module in modules]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _concatenated(inputs: Sequence[Tensor]) -> Tensor:
    """Concatenate to [B, D] the inputs of all last layers (distilled networks have two)."""
    flat = [tensor.flatten(1) for tensor in inputs]
    return flat[0] if len(flat) == 1 else torch.cat(flat, 1)


class Classifier(nn.Module):
    """A network with a classifier: maps uint8 images [B, 3, H, W] to logits [B, C].

    `model` keeps the names of its library, so that its `state_dict` is compatible with timm. slot:
    as in `Network`.
    """

    def __init__(
        self, name: str, model: nn.Module, spec: InputSpec, num_classes: int, slot: str = ""
    ) -> None:
        super().__init__()
        self.name = name
        self.input = spec
        self.num_classes = num_classes
        self.slot = slot
        self.linear_logits: bool | None = None
        self.pixels = Pixels(spec)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, on the classifier's device."""
        return self.logits(self.pixels(images))

    def logits(self, pixels: Tensor) -> Tensor:
        """Return logits [B, C] of normalised images."""
        logits: Tensor = self.model(pixels)
        return logits

    def outputs(self, pixels: Tensor) -> NetworkOutput:
        """Return logits, feature maps and embedding of normalised images, by one forward pass.

        pixels: [B, 3, H, W]. The logits equal `model(pixels)`. Raises `UserError` for networks
        without feature maps.
        """
        if self.linear_logits is None:
            with torch.no_grad(), evaluating(self.model):
                last, image = self.last_layers(), self._black()
                self.linear_logits = _has_linear_logits(self.model, last, image)
        return network_output(self.name, self.model, self.last_layers(), pixels, self.linear_logits)

    def shapes(self) -> FeatureShapes:
        """Return the shapes of `outputs` for images of the input's size. Raises as `outputs`."""
        with torch.no_grad(), evaluating(self.model):
            return _shapes(self.outputs(self._black()), self.model)

    def embed(self, images: Tensor) -> Tensor:
        """Return pooled features [B, D], the last layer's input, of uint8 images [B, 3, H, W]."""
        return self.pooled(self.pixels(images))

    def pooled(self, pixels: Tensor) -> Tensor:
        """Return pooled features [B, D] of normalised images."""
        return embedding(self.model, self.last_layers(), pixels)

    def with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [B, C] and pooled features [B, D] of uint8 images [B, 3, H, W]."""
        with _captured(self.last_layers()) as inputs:
            logits = self(images)
        return logits, _concatenated(inputs)

    def _black(self) -> Tensor:
        """Return one black image of the input's size."""
        size = self.input.size
        return torch.zeros(1, 3, size, size, device=self.pixels.gain.device)

    def last_layers(self) -> Sequence[nn.Module]:
        """Return the layers that compute the logits; most networks have one."""
        if self.slot:
            return [self.model.get_submodule(self.slot)]
        from timm.layers.classifier import ClassifierHead

        model: Any = self.model
        found = model.get_classifier()
        layers = found if isinstance(found, tuple | list | nn.ModuleList) else [found]
        # The classifier of Sequencer includes the pooling.
        return [layer.fc if isinstance(layer, ClassifierHead) else layer for layer in layers]


def build_classifier(
    name: str,
    num_classes: int,
    weights: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    drop_path: float = 0.0,
) -> Classifier:
    """Build a network with a new classifier, in eval mode on the CPU.

    name, weights, drop_path: as in `build_network`, which also raises `UserError`. seed: seed of
    random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "classifier"))
        network = build_network(name, weights, image_size, drop_path)
        model = with_classifier(network, num_classes)
    return Classifier(name, model, network.input, num_classes, network.slot).eval()


def load_checkpoint(classifier: Classifier, path: str | Path) -> None:
    """Load the weights of a trained classifier, including its last layer.

    Raises `UserError` with the file and the first tensors that do not fit.
    """
    load_into(classifier.model, read_weights(str(path)), str(path))


@torch.inference_mode()
def predict_network(
    classifier: Classifier,
    batches: Iterable[Tensor],
    compute: Compute = DEFAULT_COMPUTE,
) -> ProbTable:
    """Predict class probabilities of images, a row per image, in their order.

    batches: uint8 [B, 3, S, S], not augmented. The classifier is moved to the device and set to
    eval mode.
    """
    classifier.to(compute.device).eval()

    def launched() -> Iterator[Tensor]:
        for images in batches:
            with compute.autocast():
                logits = classifier(images)
            yield logits.float().softmax(-1)

    none = ProbTable.compress(torch.zeros(0, classifier.num_classes))
    return ProbTable.concat([none, *map(ProbTable.compress, on_cpu(launched()))])
