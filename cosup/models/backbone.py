"""Frozen backbones: networks that map images to features."""

import hashlib
import json
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from cosup.models.compute import DEFAULT_COMPUTE, Compute, Precision
from cosup.models.images import InputSpec, Pixels
from cosup.models.networks import Network, build_network
from cosup.models.section import BackboneSection
from cosup.models.weights import hash_tensors
from cosup.seeds import seed_for

__all__ = ["Backbone", "load_backbone"]


class Backbone(nn.Module):
    """A frozen network that maps uint8 images [B, 3, H, W] to features [B, num_features] float32.

    identity: hash of architecture, weights, input and precision. logit_scale: CLIP's scale of
    cosines; None for other networks.
    """

    def __init__(self, network: Network, compute: Compute) -> None:
        super().__init__()
        self.name = network.name
        self.input: InputSpec = network.input
        self.num_features = network.num_features
        self.logit_scale = network.logit_scale
        self.compute = compute
        self.identity = _identity(network, compute.precision)
        self.pixels = Pixels(network.input)
        self.model = network.model.to(memory_format=torch.channels_last)
        self.to(compute.device).eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Device of the backbone and of the features it returns."""
        return self.pixels.gain.device

    def forward(self, images: Tensor) -> Tensor:
        """Return features of uint8 images. The caller decides about inference mode."""
        inputs = self.pixels(images)
        with self.compute.autocast():
            features: Tensor = self.model(inputs)
        return features.to(torch.float32)


def load_backbone(section: BackboneSection, compute: Compute = DEFAULT_COMPUTE) -> Backbone:
    """Load the section's backbone. Random weights (null) are the same in every run.

    Raises `UserError` as `build_network` does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(0, "backbone", section.name))
        network = build_network(
            section.name, section.weights, section.image_size, features=section.features
        )
    spec = network.input
    spec = replace(
        spec,
        crop_pct=section.crop_pct or spec.crop_pct,
        interpolation=section.interpolation or spec.interpolation,
    )
    return Backbone(replace(network, input=spec), compute)


def _identity(network: Network, precision: Precision) -> str:
    """Return a hash of everything that features depend on besides the image.

    The text of the modules covers differences without tensors, such as activations.
    """
    parts = [network.name, asdict(network.input), precision, str(network.model)]
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update(hash_tensors(network.model.state_dict()).encode())
    return digest.hexdigest()
