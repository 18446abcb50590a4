"""Networks by name, without their classifier: timm's, the hub's, torchvision's, CLIP's image
encoders, and CIFAR's.

Backbones: frozen pretrained networks that turn images into features.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from cosup.errors import UserError, unknown_name, unknown_of_many
from cosup.models.cifar import CIFAR_NETWORKS
from cosup.models.clip import clip_image_tower
from cosup.models.compute import DEFAULT_COMPUTE, Compute, Precision
from cosup.models.images import InputSpec, Pixels
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection
from cosup.models.weights import downloads, hash_tensors, load_into, read_weights
from cosup.seeds import seed_for

HUB = ("hf-hub:", "hf_hub:")
TORCHVISION = "torchvision:"
CIFAR = "cifar_"
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers that need at least two samples per batch in training."""
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's pixels


@dataclass(frozen=True)
class Network:
    """A network whose output is its pooled features [B, num_features].

    slot: the submodule that takes a classifier; empty for timm's, which have a method for it.
    logit_scale: what CLIP multiplies cosines by; None for other networks.
    """

    name: str
    model: nn.Module
    input: InputSpec
    num_features: int
    slot: str = ""
    logit_scale: float | None = None


def build_network(
    name: str, weights: str | None, image_size: int | None, drop_path: float = 0.0
) -> Network:
    """The named network without its classifier, in eval mode on the CPU.

    weights: `pretrained`, `package:MODULE`, a file, or None for a random start (from torch's
    global generator). drop_path: stochastic depth, the rate of the deepest block (Huang et al.,
    arXiv 1603.09382). Raises `UserError` for unknown names, weights that aren't there or don't
    fit, image sizes that the network can't read, and drop_path for networks without it.
    """
    own, slot, scale = weights == "pretrained", "", None
    model: nn.Module
    if name.startswith(OPEN_CLIP):
        if drop_path:
            raise _no_drop_path(name, drop_path)
        model, spec, scale = clip_image_tower(name, weights, image_size)
        own, slot = True, "head"
    elif name.startswith(TORCHVISION):
        model, spec, slot = _torchvision(name, own, image_size, drop_path)
    elif name.startswith(CIFAR):
        model, spec = _cifar(name, own, image_size, drop_path)
    else:
        model, spec = _timm(name, own, image_size, drop_path)
    if weights is not None and not own:
        load_into(model, read_weights(weights), weights, drop_classifier=True)
    model.eval()
    return Network(name, model, spec, _probe(name, model, spec), slot, scale)


def with_classifier(network: Network, classes: int) -> nn.Module:
    """The network with a fresh classifier over `classes`, under the library's own name for it."""
    model: Any = network.model
    if network.slot:
        model.set_submodule(network.slot, nn.Linear(network.num_features, classes))
    else:
        model.reset_classifier(classes)
    return network.model


def _cifar(
    name: str, pretrained: bool, image_size: int | None, drop_path: float
) -> tuple[nn.Module, InputSpec]:
    if name not in CIFAR_NETWORKS:
        raise unknown_name("backbone", name, CIFAR_NETWORKS)
    if pretrained:
        raise UserError(
            f"backbone '{name}': no pretrained weights are published for it (allowed: weights: "
            "null, or a file)"
        )
    if drop_path:
        raise _no_drop_path(name, drop_path)
    model = CIFAR_NETWORKS[name](0)
    return model, InputSpec(image_size or 32, CIFAR_MEAN, CIFAR_STD, 1.0, "bicubic")


def _timm(
    name: str, pretrained: bool, image_size: int | None, drop_path: float
) -> tuple[nn.Module, InputSpec]:
    base, _, tag = name.partition(".")
    if not name.startswith(HUB) and not timm.is_model(base):
        raise unknown_timm(name)
    if pretrained and not name.startswith(HUB) and not timm.is_model_pretrained(name):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
        allowed = f"tags {', '.join(tags)}" if tags else "weights: null, or a file"
        raise UserError(f"backbone '{name}': timm has no pretrained weights for it ({allowed})")
    if tag and not pretrained and not name.startswith(HUB):
        name = base  # a tag names weights, and none of timm's are wanted
    with downloads(name):
        model = _create_timm(name, pretrained, image_size, drop_path)
    found: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return model, InputSpec(
        size=image_size or found["input_size"][1],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        crop_pct=found["crop_pct"],
        interpolation=found["interpolation"],
        squash=found.get("crop_mode") == "squash",
    )


def _create_timm(
    name: str, pretrained: bool, image_size: int | None, drop_path: float
) -> nn.Module:
    """Transformers must be told the image size; convolutional networks don't know the argument."""
    settings: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
    if drop_path:
        settings["drop_path_rate"] = drop_path
    if image_size is not None:
        settings["img_size"] = image_size
    try:
        return _has_drop_path(name, timm.create_model(name, **settings), drop_path)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise _no_drop_path(name, drop_path) from None
        if image_size is None or "img_size" not in str(error):
            raise
    except AssertionError as error:
        if image_size is None:
            raise
        raise _wrong_size(name, image_size, error) from None
    return _create_timm(name, pretrained, None, drop_path)


def _has_drop_path(name: str, model: nn.Module, drop_path: float) -> nn.Module:
    """The model, if it has stochastic depth or needs none: some swallow arguments in silence."""
    drops = (getattr(module, "drop_prob", 0.0) for module in model.modules())
    if drop_path and not any(drops):
        raise _no_drop_path(name, drop_path)
    return model


def _no_drop_path(name: str, drop_path: float) -> UserError:
    return UserError(
        f"'{name}' has no stochastic depth, and training.drop_path is {drop_path:g} (allowed: 0)"
    )


def _torchvision(
    name: str, pretrained: bool, image_size: int | None, drop_path: float
) -> tuple[nn.Module, InputSpec, str]:
    from torchvision import models  # slow to import, and few configs need it

    short, known = name.removeprefix(TORCHVISION), models.list_models(module=models)
    if short not in known:
        raise unknown_name("torchvision model", short, known)
    weights = models.get_model_weights(short).DEFAULT
    settings: dict[str, Any] = {"weights": weights if pretrained else None}
    if image_size and short.startswith("vit_"):
        settings["image_size"] = image_size
    if drop_path:
        settings["stochastic_depth_prob"] = drop_path
    with downloads(name):
        try:
            model = models.get_model(short, **settings)
        except TypeError as error:
            if "stochastic_depth_prob" not in str(error):
                raise
            raise _no_drop_path(name, drop_path) from None
        except ValueError as error:
            raise _wrong_size(name, image_size or 0, error) from None
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"backbone '{name}' ends in no linear classifier; use timm's of that name")
    model.set_submodule(linear[-1], nn.Identity())
    preset = weights.transforms()
    return (
        model,
        InputSpec(
            size=image_size or preset.crop_size[0],
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            crop_pct=preset.crop_size[0] / preset.resize_size[0],
            interpolation=preset.interpolation.value,
        ),
        linear[-1],
    )


def unknown_timm(name: str) -> UserError:
    """The error for a name that timm doesn't know: the nearest ones, not all thousand."""
    known = [*timm.list_models(), *CIFAR_NETWORKS]
    allowed = (
        "a timm name, cifar_NAME, hf-hub:owner/model, torchvision:NAME, open_clip:MODEL@WEIGHTS"
    )
    return unknown_of_many("backbone", name, known, allowed, like=name.partition(".")[0])


@torch.inference_mode()
def _probe(name: str, model: nn.Module, spec: InputSpec) -> int:
    """The number of outputs, found by reading one black image."""
    try:
        output = model(torch.zeros(1, 3, spec.size, spec.size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _wrong_size(name, spec.size, error) from None
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise UserError(f"backbone '{name}' doesn't give one feature vector per image")
    return output.shape[1]


def _wrong_size(name: str, size: int, error: Exception) -> UserError:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"image_size: {size} doesn't suit '{name}' ({text})")


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
