"""Classifiers: whole networks from images to class logits, for teachers that are trained here."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cosup.models.networks import InputSpec, Pixels, build_network, with_classifier
from cosup.models.weights import load_into, read_weights
from cosup.seeds import seed_for


class Classifier(nn.Module):
    """uint8 images [B, 3, H, W] -> logits [B, C].

    `model` keeps the library's own names, so its `state_dict` loads wherever timm's does.
    """

    def __init__(self, name: str, model: nn.Module, spec: InputSpec, num_classes: int) -> None:
        super().__init__()
        self.name = name
        self.input = spec
        self.num_classes = num_classes
        self.pixels = Pixels(spec)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits, on the classifier's device."""
        logits: Tensor = self.model(self.pixels(images))
        return logits


def build_classifier(
    name: str,
    num_classes: int,
    weights: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> Classifier:
    """A network with a fresh classifier, random (by seed) or from a backbone's weights.

    `name` and `weights` as for backbones; raises `UserError` as `build_network` does. It starts
    in eval mode, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "classifier"))
        network = build_network(name, weights, image_size)
        model = with_classifier(network, num_classes)
    return Classifier(name, model, network.input, num_classes).eval()


def load_checkpoint(classifier: Classifier, path: str | Path) -> None:
    """Load a trained classifier over all of the task's classes, its last layer included.

    Raises `UserError` naming the file and the first tensors that don't fit.
    """
    load_into(classifier.model, read_weights(str(path)), str(path))
