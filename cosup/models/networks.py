"""Build networks by name, without their classifier.

Names are those of timm, of the Hugging Face hub, torchvision, CLIP's image encoders (open_clip) and
cosup's networks for CIFAR. timm and torchvision are imported when they are used, as that
takes seconds.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cosup.errors import UserError, in_short, unknown_name, unknown_of_many
from cosup.models.cifar import CIFAR_NETWORKS
from cosup.models.clip import clip_image_tower
from cosup.models.few_shot_networks import FEW_SHOT_NETWORKS
from cosup.models.images import InputSpec
from cosup.models.names import FEW_SHOT, HUB, OWN, TORCHVISION, no_pooled_conv
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import FeaturePoint
from cosup.models.weights import downloads, load_into, read_weights

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN_NETWORKS = {**CIFAR_NETWORKS, **FEW_SHOT_NETWORKS}


@dataclass(frozen=True)
class Network:
    """A network that returns its pooled features [B, num_features].

    slot: name of the submodule to replace by a classifier; empty for timm's networks, which have a
    method for it. logit_scale: CLIP's scale of cosines; None for other networks.
    """

    name: str
    model: nn.Module
    input: InputSpec
    num_features: int
    slot: str = ""
    logit_scale: float | None = None


def build_network(
    name: str,
    weights: str | None,
    image_size: int | None,
    drop_path: float = 0.0,
    published: bool = False,
    features: FeaturePoint = "penultimate",
) -> Network:
    """Build a network without its classifier, in eval mode on the CPU.

    published: with weights `pretrained` the network keeps its classifier (`num_features` is then
    its number of classes). weights: `pretrained`, `package:MODULE`, a file, or None for random
    weights (from torch's global generator). The tag of a timm name sets the input whatever the
    weights. drop_path: rate of stochastic depth in the deepest block (Huang et al., arXiv
    1603.09382). features: where they are read (`BackboneSection`). Raises `UserError` for an
    unknown name, weights that are missing or do not fit, an unsupported image size, and drop_path
    or `pooled_conv` of a network that has no such thing.
    """
    own, slot, scale = weights == "pretrained", "", None
    model: nn.Module
    if features == "pooled_conv" and not name.startswith(TORCHVISION):
        raise no_pooled_conv(name)
    if name.startswith(OPEN_CLIP):
        if drop_path:
            raise _no_drop_path(name, drop_path)
        model, spec, scale = clip_image_tower(name, weights, image_size)
        own, slot = True, "head"
    elif name.startswith(TORCHVISION):
        model, spec, slot = _torchvision(name, own, image_size, drop_path, published and own)
        if features == "pooled_conv":
            slot = _cut_classifier(name, model, slot)
    elif name.startswith(tuple(OWN)):
        model, spec = _own(name, own, image_size, drop_path)
    else:
        model, spec = _timm(name, own, image_size, drop_path, published and own)
    if weights is not None and not own:
        load_into(model, read_weights(weights), weights, drop_classifier=True)
    model.eval()
    return Network(name, model, spec, _probe(name, model, spec), slot, scale)


def with_classifier(network: Network, classes: int) -> nn.Module:
    """Return the network with a new classifier over `classes`, under the library's name for it."""
    model: Any = network.model
    if network.slot:
        model.set_submodule(network.slot, nn.Linear(network.num_features, classes))
    else:
        model.reset_classifier(classes)
    return network.model


def check_name(name: str, pretrained: bool) -> None:
    """Raise `UserError` for a name that no library has, or not with weights of its own.

    Nothing is built or downloaded; of `hf-hub:` and of open_clip's names nothing is known here.
    """
    if name.startswith(TORCHVISION):
        _torchvision_name(name)
    elif name.startswith(tuple(OWN)):
        _check_own(name, pretrained)
    elif not name.startswith(OPEN_CLIP):
        _check_timm(name, pretrained)


def _check_own(name: str, pretrained: bool) -> None:
    if name not in OWN_NETWORKS:
        raise unknown_name("backbone", name, OWN_NETWORKS)
    if pretrained:
        raise UserError(
            "backbone {value} has no published weights",
            value=name,
            allowed="weights: null, or a file",
        )


def _check_timm(name: str, pretrained: bool) -> None:
    if name.startswith(HUB):
        return
    import timm

    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise unknown_timm(name)
    if pretrained and not timm.is_model_pretrained(name):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
        allowed = f"tags {', '.join(tags)}" if tags else "weights: null, or a file"
        raise UserError(
            "timm has no pretrained weights for backbone {value}", value=name, allowed=allowed
        )


def _torchvision_name(name: str) -> str:
    """Return torchvision's own name of a network."""
    from torchvision import models  # slow to import and rarely used

    short, known = name.removeprefix(TORCHVISION), models.list_models(module=models)
    if short not in known:
        raise unknown_name("torchvision model", short, known)
    return short


def _own(
    name: str, pretrained: bool, image_size: int | None, drop_path: float
) -> tuple[nn.Module, InputSpec]:
    _check_own(name, pretrained)
    if drop_path:
        raise _no_drop_path(name, drop_path)
    model = OWN_NETWORKS[name](0)
    if name.startswith(FEW_SHOT):
        return model, InputSpec(image_size or 84, IMAGENET_MEAN, IMAGENET_STD, 1.0, "bilinear")
    return model, InputSpec(image_size or 32, CIFAR_MEAN, CIFAR_STD, 1.0, "bicubic")


def _timm(
    name: str, pretrained: bool, image_size: int | None, drop_path: float, whole: bool
) -> tuple[nn.Module, InputSpec]:
    import timm

    _check_timm(name, pretrained)
    base, _, tag = name.partition(".")
    # A known tag is kept without its weights too, as it says how images are prepared: a network
    # that was trained from these weights and is loaded again needs the same images.
    if tag and not name.startswith(HUB) and not timm.is_model_pretrained(name):
        name = base
    with downloads(name):
        model = _create_timm(name, pretrained, image_size, drop_path, whole)
    return model, input_of(model, image_size)


def input_of(model: nn.Module, image_size: int | None = None) -> InputSpec:
    """Return the input of timm's network; image_size: its side, if it is not the network's own."""
    from timm.data.config import resolve_model_data_config

    found: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return InputSpec(
        size=image_size or found["input_size"][1],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        crop_pct=found["crop_pct"],
        interpolation=found["interpolation"],
        squash=found.get("crop_mode") == "squash",
    )


def _create_timm(
    name: str, pretrained: bool, image_size: int | None, drop_path: float, whole: bool
) -> nn.Module:
    """Create timm's network; `img_size` is an argument of transformers only. whole: with its
    classifier."""
    import timm

    settings: dict[str, Any] = {"pretrained": pretrained, **({} if whole else {"num_classes": 0})}
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
    return _create_timm(name, pretrained, None, drop_path, whole)


def _has_drop_path(name: str, model: nn.Module, drop_path: float) -> nn.Module:
    """Return the model; raise `UserError` if it ignored drop_path, as some networks do."""
    drops = (getattr(module, "drop_prob", 0.0) for module in model.modules())
    if drop_path and not any(drops):
        raise _no_drop_path(name, drop_path)
    return model


def _no_drop_path(name: str, drop_path: float) -> UserError:
    return UserError(
        f"backbone {{value}} has no stochastic depth, and training.drop_path is {drop_path:g}",
        value=name,
        allowed="training.drop_path: 0",
    )


def _torchvision(
    name: str, pretrained: bool, image_size: int | None, drop_path: float, whole: bool
) -> tuple[nn.Module, InputSpec, str]:
    from torchvision import models  # slow to import and rarely used

    short = _torchvision_name(name)
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
        raise UserError(
            "backbone {value} has no linear classifier; timm may have the same network", value=name
        )
    if not whole:
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


def _cut_classifier(name: str, model: nn.Module, last: str) -> str:
    """Remove all layers of the classifier; return the name of the submodule they were in.

    last: name of its last linear layer, which is removed already.
    """
    slot = last.rpartition(".")[0]
    hidden = [one for one in model.get_submodule(slot).modules() if isinstance(one, nn.Linear)]
    if not slot or not hidden:
        raise no_pooled_conv(name)
    model.set_submodule(slot, nn.Identity())
    return slot


def unknown_timm(name: str) -> UserError:
    """Return the error for a name unknown to timm, with the nearest names."""
    import timm

    known = [*timm.list_models(), *OWN_NETWORKS]
    allowed = (
        "a timm name, cifar_NAME, few_shot_NAME, hf-hub:owner/model, torchvision:NAME, "
        "open_clip:MODEL@WEIGHTS"
    )
    return unknown_of_many("backbone", name, known, allowed, like=name.partition(".")[0])


@torch.inference_mode()
def _probe(name: str, model: nn.Module, spec: InputSpec) -> int:
    """Return the number of features, found by a forward pass of one black image."""
    try:
        output = model(torch.zeros(1, 3, spec.size, spec.size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _wrong_size(name, spec.size, error) from None
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise UserError("backbone {value} does not return one vector per image", value=name)
    return output.shape[1]


def _wrong_size(name: str, size: int, error: Exception) -> UserError:
    problem = f"does not fit backbone '{name}' ({in_short(error)})"
    return UserError(problem, key="image_size", value=size)
