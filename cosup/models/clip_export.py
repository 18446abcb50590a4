"""A CLIP image encoder as a folder by itself, in open_clip's form, without its text encoder."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cosup.files import save_tensors, write_json
from cosup.models.clip_source import DESCRIPTION, clip_source
from cosup.models.pixels import InputSpec
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection

__all__ = ["describe_encoder", "encoder_in", "save_encoder"]

WEIGHTS = "open_clip_model.safetensors"


def describe_encoder(folder: Path, section: BackboneSection, spec: InputSpec) -> None:
    """Write what the backbone `open_clip:...` is built like and reads; no weights."""
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
    """Write the image encoder, tower (`visual.*`), as a folder that `open_clip:FOLDER` loads."""
    describe_encoder(folder, section, spec)
    scale = torch.tensor(math.log(logit_scale))
    save_tensors(folder / WEIGHTS, {**tower, "logit_scale": scale})


def encoder_in(folder: Path, section: BackboneSection) -> BackboneSection:
    """The backbone as it lies in the folder, if one was written there; else the section itself."""
    if not section.name.startswith(OPEN_CLIP) or not (folder / DESCRIPTION).is_file():
        return section
    weights = "pretrained" if (folder / WEIGHTS).is_file() else None
    name = f"{OPEN_CLIP}local-dir:{folder}"
    return BackboneSection(name=name, weights=weights, image_size=section.image_size)
