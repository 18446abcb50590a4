"""The folder of a student as timm and the Hugging Face hub read it.

`config.json` has the architecture, the class names and the preparation of images, and
`model.safetensors` the weights, both as `timm.models.save_for_hf` writes them. So
`timm.create_model("local-dir:FOLDER", pretrained=True)` gives the student.
"""

import copy
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from cosup.errors import UserError, in_short
from cosup.files import write_atomic
from cosup.models.backbone import Backbone
from cosup.models.classifier import Classifier
from cosup.models.heads import HeadBank
from cosup.models.images import InputSpec, Pixels
from cosup.models.names import CIFAR, TORCHVISION
from cosup.models.networks import Network, input_of, with_classifier
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection
from cosup.seeds import torch_generator
from cosup.student.reading import check_arguments, check_classes, check_fit
from cosup.student.schema import TimmFile, read_about

__all__ = [
    "CONFIG",
    "NETWORK",
    "TOLERANCE",
    "NotInTimm",
    "check_in_timm",
    "folded_network",
    "load_timm",
    "tried_images",
    "write_timm",
]

CONFIG, NETWORK = "config.json", "model.safetensors"
TOLERANCE = 1e-5
"""The largest difference of a probability that is taken for rounding."""
TRIED = 4
"""Images on which the two are compared."""
STALE = {
    "test_input_size",
    "test_crop_pct",
    "test_pool_size",
    "label_names",
    "label_descriptions",
    "label_offset",
}
"""What timm says of the published weights that does not hold for the student."""


class NotInTimm(Exception):
    """timm cannot hold a student. The text is the reason, a clause without a full stop."""


def check_in_timm(name: str, head: str | None, meta: bool) -> None:
    """Raise `NotInTimm` for a student that timm has no form for.

    name: of the backbone. head: the kind of a head; None for a whole network. meta: whether it went
    through the meta stage.
    """
    if meta:
        raise NotInTimm("after the meta stage only its features are of use")
    if head == "prototype":
        raise NotInTimm("its head compares directions with prototypes, and is no linear layer")
    for prefix, owner in ((OPEN_CLIP, "open_clip"), (TORCHVISION, "torchvision"), (CIFAR, "cosup")):
        if name.startswith(prefix):
            raise NotInTimm(f"its backbone is a network of {owner}")


@torch.no_grad()
def folded_network(backbone: Backbone, head: HeadBank) -> tuple[Classifier, Tensor]:
    """Return a copy of the backbone whose last layer is the head, and what the head predicts.

    head: one linear head. The predictions are logits [4, C] of `tried_images`. Raises
    `NotInTimm` for a network whose logits are not one linear layer on what it returns without a
    classifier.
    """
    if head.hidden:
        raise NotInTimm("its head has hidden layers")
    images = tried_images(backbone.input)
    features: Tensor = backbone(images)
    logits: Tensor = head(features)[0]
    built = Network(
        backbone.name, copy.deepcopy(backbone.model), backbone.input, backbone.num_features
    )
    with torch.random.fork_rng(devices=[]):
        model = with_classifier(built, head.num_classes)
    classifier = Classifier(backbone.name, model, backbone.input, head.num_classes).eval()
    weight, bias = head.folded()
    last = classifier.last_layers()
    layer: Any = last[0]
    linear = len(last) == 1 and isinstance(layer, nn.Linear | nn.Conv2d)
    if not linear or layer.bias is None or layer.weight.numel() != weight.numel():
        raise NotInTimm("the classifier of its network is not one linear layer")
    layer.weight.copy_(weight.view_as(layer.weight))
    layer.bias.copy_(bias)
    own = classifier.embed(images)
    if own.shape != features.shape or not torch.allclose(own, features, rtol=1e-3, atol=1e-4):
        raise NotInTimm("the classifier of its network reads other features than the head")
    return classifier, logits


def tried_images(spec: InputSpec) -> Tensor:
    """Return images of noise of different contrast, uint8 [4, 3, H, W], on which to compare."""
    shape = (TRIED, 3, spec.size, spec.size)
    noise = torch.rand(shape, generator=torch_generator(0, "tried"))
    contrast = torch.linspace(0.1, 1, TRIED).view(-1, 1, 1, 1)
    return (255 * noise * contrast).to(torch.uint8)


@torch.no_grad()
def write_timm(
    folder: Path,
    network: Classifier,
    section: BackboneSection,
    classes: Sequence[str],
    expected: Tensor | None = None,
) -> None:
    """Write `config.json` and `model.safetensors` of a network of timm's, on the CPU.

    section: the backbone that it was built from. expected: logits [4, C] of `tried_images`;
    None: those of the network. Raises `NotInTimm`, and writes nothing, if timm cannot load what was
    written, or gives other ones.
    """
    if expected is None:
        expected = network(tried_images(network.input))
    model: Any = network.model
    model.to(memory_format=torch.contiguous_format)  # safetensors stores no other
    model.pretrained_cfg = _about(model.pretrained_cfg, network.input, section)
    with TemporaryDirectory(prefix="cosup-student-") as place:
        made = Path(place)
        try:
            save_for_hf(
                model, place, model_config={"label_names": list(classes)}, safe_serialization=True
            )
        except Exception as error:  # of arguments that are no JSON, and of a hub's other version
            raise NotInTimm(f"timm does not save it ({in_short(error)})") from None
        _check_loaded(made, network, expected)
        for name in (NETWORK, CONFIG):
            write_atomic(folder / name, partial(shutil.copy, made / name))


def _about(published: dict[str, Any], spec: InputSpec, section: BackboneSection) -> dict[str, Any]:
    """Return timm's description of published weights, as it holds for a student.

    The licence is that of the weights, and so holds for a student that starts from them alone.
    """
    drop = STALE if section.weights == "pretrained" else {*STALE, "license"}
    return {
        **{key: value for key, value in published.items() if key not in drop},
        "custom_load": False,
        "input_size": (3, spec.size, spec.size),
        "mean": spec.mean,
        "std": spec.std,
        "crop_pct": spec.crop_pct,
        "crop_mode": "squash" if spec.squash else "center",
        "interpolation": spec.interpolation,
    }


def _check_loaded(folder: Path, network: Classifier, expected: Tensor) -> None:
    """Raise `NotInTimm` if timm does not load a network that predicts what is expected."""
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # timm's networks raise many kinds
        raise NotInTimm(f"timm does not load it ({in_short(error)})") from None
    if input_of(model) != network.input:
        raise NotInTimm("timm prepares images in another way")
    found = model(network.pixels(tried_images(network.input)))
    apart = float((found.softmax(1) - expected.softmax(1)).abs().max())
    # Logits as well, because probabilities near 0 and 1 hide what is not the same.
    if not (apart <= TOLERANCE and torch.allclose(found, expected, rtol=1e-3, atol=1e-3)):
        raise NotInTimm(f"its probabilities would differ by up to {apart:.0e}")


class TimmPixels(Pixels):
    """Normalise uint8 images [B, 3, H, W] by timm's arithmetic, in its order of memory.

    The last bits of pixels matter: a network with standardised features made of a difference of
    1e-7 one of 8e-6 in a probability.
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__(spec)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [B, 3, H, W], on the device of the buffers."""
        moved = images.to(self.mean.device, non_blocking=True)
        return moved.to(torch.float32).div(255).sub(self.mean).div(self.std)


def load_timm(folder: Path, name: str, classes: Sequence[str]) -> Classifier:
    """Build the network that `config.json` describes, with random weights, on the CPU.

    name: of its backbone, for errors. classes: of the student. Raises `UserError` for a description
    that does not fit the classes or the tensors, and if timm cannot build it.
    """
    about = read_about(folder / CONFIG, TimmFile, "a description of a network")
    check_classes(folder / CONFIG, about.num_classes, len(classes))
    if about.label_names != tuple(classes):
        raise UserError(f"{CONFIG} has other classes than the student", where=str(folder))
    check_arguments(about.model_args, folder / CONFIG, folder / NETWORK)
    blank = check_fit(folder / NETWORK, name, partial(_built, folder))
    with torch.random.fork_rng(devices=[]):
        model = _built(folder)
    network = Classifier(name, model, input_of(model), len(classes))
    network.pixels = TimmPixels(network.input)
    _check_answer(folder, [blank, model], network.input, len(classes))
    return network


def _built(folder: Path) -> nn.Module:
    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=False)
    except Exception as error:  # timm's networks raise many kinds
        problem = f"{CONFIG} describes no network of timm ({in_short(error)})"
        raise UserError(problem, where=str(folder)) from None


@torch.inference_mode()
def _check_answer(
    folder: Path, models: Sequence[nn.Module | None], spec: InputSpec, classes: int
) -> None:
    """Raise `UserError` if a network does not answer an image with a number per class.

    models: the same network, the one without memory first, which costs no time to ask.
    """
    reason = ""
    for model in filter(None, models):
        device = next(model.parameters()).device
        try:
            shape = list(model.eval()(torch.zeros(1, 3, spec.size, spec.size, device=device)).shape)
        except Exception as error:  # timm's networks raise many kinds
            reason = in_short(error)
            continue
        if shape == [1, classes]:
            return
        reason = f"its answer to an image has the shape {shape}"
        break
    problem = f"{CONFIG} describes a network that does not classify images ({reason})"
    raise UserError(problem, where=str(folder))
