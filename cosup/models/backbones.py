"""Backbones: frozen pretrained networks that turn images into features."""

import hashlib
import json
from dataclasses import asdict

import torch
from torch import Tensor, nn

from cosup.models.compute import DEFAULT_COMPUTE, Compute, Precision
from cosup.models.networks import Network, build_network
from cosup.models.pixels import InputSpec, Pixels
from cosup.models.section import BackboneSection
from cosup.seeds import seed_for


class Backbone(nn.Module):
    """uint8 images [B, 3, H, W] -> features [B, num_features] float32.

    identity: changes with the architecture, any weight, the input or the precision. logit_scale:
    what CLIP multiplies cosines by, None for other networks. `forward` normalises on the backbone's
    device and returns features there.
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
        """Where it runs."""
        return self.pixels.gain.device

    def forward(self, images: Tensor) -> Tensor:
        """Features of uint8 images; inference mode is the caller's."""
        inputs = self.pixels(images)
        with self.compute.autocast():
            features: Tensor = self.model(inputs)
        return features.to(torch.float32)


def load_backbone(section: BackboneSection, compute: Compute = DEFAULT_COMPUTE) -> Backbone:
    """The section's backbone, ready to run; random weights (null) are the same every time.

    Raises `UserError` as `build_network` does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(0, "backbone", section.name))
        network = build_network(section.name, section.weights, section.image_size)
    return Backbone(network, compute)


def _identity(network: Network, precision: Precision) -> str:
    """A hash of everything that a feature depends on, but the image.

    The modules as text tell apart what differs in no tensor (an activation, say).
    """
    parts = [network.name, asdict(network.input), precision, str(network.model)]
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update(hash_tensors(network.model.state_dict()).encode())
    return digest.hexdigest()


def hash_tensors(state: dict[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
