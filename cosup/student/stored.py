"""The frozen backbone beside a head: stored in the folder, or referenced by its name.

CLIP's image encoder is stored in open_clip's format, and a backbone whose weights are a file of
this machine as `backbone.safetensors`: nobody else has that file, and it may be a pickle, which is
not read from a student's folder. Others are referenced.
"""

from collections.abc import Collection
from functools import partial
from pathlib import Path

from torch import nn

from cosup.files import save_tensors
from cosup.models.backbone import Backbone
from cosup.models.clip import TOWER, WEIGHTS, clip_image_tower, encoder_in, save_encoder
from cosup.models.clip_source import DESCRIPTION
from cosup.models.names import is_weights_file
from cosup.models.section import BackboneSection
from cosup.models.trusted import check_backbone_from_elsewhere
from cosup.student.reading import check_arguments, check_fit, check_recorded
from cosup.student.schema import ClipFile, read_about

__all__ = ["BACKBONE", "backbone_in", "check_clip", "is_stored", "store_backbone"]

BACKBONE = "backbone.safetensors"


def is_stored(section: BackboneSection, backbone: Backbone) -> bool:
    """Return whether a backbone has to be stored beside its head."""
    return backbone.logit_scale is not None or is_weights_file(section.weights)


def store_backbone(folder: Path, section: BackboneSection, backbone: Backbone) -> None:
    """Store a backbone in a folder, if it has to be."""
    state = backbone.model.state_dict()
    if backbone.logit_scale is not None:
        save_encoder(folder, section, backbone.input, state, backbone.logit_scale)
    elif is_weights_file(section.weights):
        save_tensors(folder / BACKBONE, state)


def backbone_in(
    folder: Path, section: BackboneSection, student: Path, packages: Collection[str] = ()
) -> BackboneSection:
    """Return the section of the backbone that is stored in a folder; else the section itself.

    student: the student's folder, which holds the folder. packages: modules that may be imported
    for weights, beside those of `cosup.models.trusted`. Raises `UserError` for a backbone that may
    not be loaded or does not fit, and `Damaged` for files that are not what was written.
    """
    found = encoder_in(folder, section)
    if (folder / BACKBONE).is_file():
        found = section.model_copy(update={"weights": str(folder / BACKBONE)})
        check_recorded(folder / BACKBONE, student)
    check_backbone_from_elsewhere(found, packages)
    weights = folder / WEIGHTS
    if found.name != section.name and weights.is_file():
        check_recorded(weights, student)
        check_clip(folder, weights, student)
        check_fit(weights, section.name, partial(_tower, found), TOWER)
    return found


def check_clip(folder: Path, weights: Path, student: Path) -> None:
    """Raise `UserError` for a description of CLIP's image encoder that `weights` cannot fit."""
    path = folder / DESCRIPTION
    check_recorded(path, student)
    about = read_about(path, ClipFile, "an image encoder of CLIP").model_cfg
    check_arguments({"embed_dim": about.embed_dim, **about.vision_cfg}, path, weights)


def _tower(section: BackboneSection) -> nn.Module:
    return clip_image_tower(section.name, None, section.image_size)[0]
