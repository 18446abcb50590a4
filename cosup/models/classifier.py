"""Classifiers: whole networks from images to class logits, for those that are trained here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers.classifier import ClassifierHead
from torch import Tensor, nn

from cosup.losses.features import Seen, Shapes
from cosup.models.networks import build_network, with_classifier
from cosup.models.pixels import InputSpec, Pixels
from cosup.models.seeing import embedding, evaluating, is_plain, see, shapes_of
from cosup.models.weights import load_into, read_weights
from cosup.seeds import seed_for


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

    def see(self, pixels: Tensor) -> Seen:
        """Logits, feature maps and embedding of normalised images [B, 3, H, W], by one pass.

        The logits are those of `model(pixels)`. Raises `UserError` for networks that give no
        feature maps.
        """
        if self.plain is None:
            with torch.no_grad(), evaluating(self.model):
                self.plain = is_plain(self.model, self._last(), self._black())
        return see(self.name, self.model, self._last(), pixels, self.plain)

    def shapes(self) -> Shapes:
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
