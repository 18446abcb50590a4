"""CLIP's image encoders: build, load and save those of backbones `open_clip:...`.

The text encoder is neither built nor loaded here (see `cosup.models.clip_text`). An image encoder
is saved as a folder in open_clip's format, without the text encoder.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from cosup.errors import UserError, in_short
from cosup.files import save_tensors, write_json
from cosup.models.clip_source import DESCRIPTION, ClipSource, clip_source, open_clip, quiet
from cosup.models.images import InputSpec
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection
from cosup.models.weights import load_into, read_weights

__all__ = [
    "TOWER",
    "ImageTower",
    "clip_image_tower",
    "describe_encoder",
    "encoder_in",
    "save_encoder",
]


TOWER = "visual."
"""Prefix of the image encoder's tensors in a checkpoint of both encoders."""
DEFAULT_SCALE = 1 / 0.07
"""Scale at the start of CLIP's training (Radford et al., arXiv 2103.00020, section 2.5)."""


class ImageTower(nn.Module):
    """Maps normalised images [B, 3, H, W] to features [B, D] in the space shared with text.

    `visual` keeps the names of open_clip; `head` is replaced by a classifier.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.head: nn.Module = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pooled features; encoders such as CoCa's return tokens as well."""
        found = self.visual(pixels)
        logits: Tensor = self.head(found[0] if isinstance(found, tuple) else found)
        return logits

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that open_clip excludes from weight decay."""
        own: Any = self.visual
        names = own.no_weight_decay() if hasattr(own, "no_weight_decay") else ()
        return {f"{TOWER}{name}" for name in names}


def clip_image_tower(
    name: str, weights: str | None, image_size: int | None
) -> tuple[ImageTower, InputSpec, float]:
    """Return the image encoder of a backbone on the CPU, its input, and CLIP's logit scale.

    weights: `pretrained` for the weights in the name, a file or `package:MODULE`, or None for
    random weights (from torch's global generator). Raises `UserError` if open_clip is not
    installed, the name is unknown, or the weights are missing or do not fit.
    """
    source, library = clip_source(name, weights), open_clip(name)
    # timm's towers would download timm's weights.
    vision = {**source.settings["vision_cfg"], "timm_model_pretrained": False}
    if image_size is not None:
        vision["image_size"] = image_size
    visual = _build(source, vision, library)
    scale = math.exp(source.settings.get("init_logit_scale", math.log(DEFAULT_SCALE)))
    if source.weights is not None:
        scale = _load(visual, source, library, image_size) or scale
    if image_size is not None:
        _resize(visual, image_size, name)
    return ImageTower(visual), _input(name, source.preprocess, vision, visual), scale


def _build(source: ClipSource, vision: dict[str, Any], library: Any) -> nn.Module:
    """Return the image encoder with random weights."""
    settings = source.settings
    try:
        with quiet():
            # Private: open_clip's public functions build the text encoder too.
            visual: nn.Module = library.model._build_vision_tower(
                settings["embed_dim"], vision, settings.get("quick_gelu", False)
            )
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise UserError(
            f"backbone '{source.name}': open_clip cannot build its image encoder "
            f"({in_short(error)})"
        ) from None
    return visual


def _resize(visual: Any, image_size: int, name: str) -> None:
    """Set the image size of timm's towers, which are built for their own size, after loading."""
    if not hasattr(visual, "set_input_size"):
        return
    try:
        with quiet():
            visual.set_input_size(image_size)
    except (ValueError, RuntimeError, AssertionError) as error:
        text = f"does not fit backbone '{name}' ({in_short(error)})"
        raise UserError(text, key="image_size", value=image_size) from None


def _load(
    visual: nn.Module, source: ClipSource, library: Any, image_size: int | None
) -> float | None:
    """Load the image encoder from a checkpoint; return its logit scale or None.

    The checkpoint may lack the text encoder.
    """
    assert source.weights is not None
    state = read_weights(source.weights)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(key.startswith(TOWER) for key in state):
        with quiet():  # a checkpoint with MobileCLIP's names
            state = library.factory.convert_state_dict(SimpleNamespace(visual=visual), state)
    own = {key: value for key, value in state.items() if key.startswith(TOWER)}
    if not own:
        raise UserError(
            f"weights '{source.weights}': no image encoder of open_clip ({TOWER}...) in it"
        )
    with quiet():
        library.model.resize_pos_embed(own, SimpleNamespace(visual=visual))
    embeddings = own.get(f"{TOWER}trunk.pos_embed"), visual.state_dict().get("trunk.pos_embed")
    if image_size is not None and len({e.shape for e in embeddings if e is not None}) == 2:
        _resize(visual, image_size, source.name)  # saved at that size
    try:
        load_into(visual, {key.removeprefix(TOWER): t for key, t in own.items()}, source.weights)
    except UserError as error:
        # Some encoders cannot be resized.
        at = "" if image_size is None else f" (at image_size {image_size})"
        raise UserError(f"{error}{at}") from None
    scale = state.get("logit_scale")
    return None if scale is None else float(scale.float().exp().flatten()[0])


def _input(
    name: str, preprocess: dict[str, Any], vision: dict[str, Any], visual: nn.Module
) -> InputSpec:
    """Return the encoder's input, with open_clip's preprocessing for prediction."""
    found: dict[str, Any] = {"interpolation": "bicubic", "resize_mode": "shortest"}
    found |= {key: value for key, value in preprocess.items() if value is not None}
    size: Any = getattr(visual, "image_size", None) or vision.get("image_size", 224)
    sides = {*size} if isinstance(size, tuple | list) else {size}
    if len(sides) != 1:
        raise UserError(f"backbone '{name}': needs images of {size} pixels, which are not square")
    for key, allowed in (
        ("resize_mode", ("shortest", "squash")),
        ("interpolation", ("bicubic", "bilinear", "random")),
    ):
        if found[key] not in allowed:
            raise UserError(
                f"backbone '{name}': {key} '{found[key]}' (allowed: {', '.join(allowed)})"
            )
    library = open_clip(name)
    return InputSpec(
        size=int(sides.pop()),
        mean=_channels(found.get("mean", library.OPENAI_DATASET_MEAN)),
        std=_channels(found.get("std", library.OPENAI_DATASET_STD)),
        crop_pct=1.0,
        # `random` applies to training only.
        interpolation="bilinear" if found["interpolation"] == "bilinear" else "bicubic",
        squash=found["resize_mode"] == "squash",
    )


def _channels(value: Any) -> tuple[float, ...]:
    """Return values of red, green and blue; one number stands for all three."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * 3


WEIGHTS = "open_clip_model.safetensors"


def describe_encoder(folder: Path, section: BackboneSection, spec: InputSpec) -> None:
    """Write architecture and preprocessing of a backbone `open_clip:...`, without weights."""
    source = clip_source(section.name, section.weights)
    vision = {**source.settings["vision_cfg"], "image_size": spec.size}
    preprocess = {
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": spec.interpolation,
        "resize_mode": "squash" if spec.squash else "shortest",
    }
    settings = {**source.settings, "vision_cfg": vision}
    write_json(folder / DESCRIPTION, {"model_cfg": settings, "preprocess_cfg": preprocess})


def save_encoder(
    folder: Path,
    section: BackboneSection,
    spec: InputSpec,
    tower: Mapping[str, Tensor],
    logit_scale: float,
) -> None:
    """Write an image encoder as a folder that `open_clip:FOLDER` loads.

    tower: tensors of the image encoder, with the prefix `visual.`.
    """
    describe_encoder(folder, section, spec)
    scale = torch.tensor(math.log(logit_scale))
    save_tensors(folder / WEIGHTS, {**tower, "logit_scale": scale})


def encoder_in(folder: Path, section: BackboneSection) -> BackboneSection:
    """Return the section of the backbone saved in the folder; else the section itself."""
    if not section.name.startswith(OPEN_CLIP) or not (folder / DESCRIPTION).is_file():
        return section
    weights = "pretrained" if (folder / WEIGHTS).is_file() else None
    name = f"{OPEN_CLIP}local-dir:{folder}"
    return section.model_copy(update={"name": name, "weights": weights})
