"""The folder of an exported student: where it is, which files it has, and what `student.json` says.

The weights have one of three forms:

- `config.json` and `model.safetensors`: a network of timm's, as timm reads it. The head of a frozen
  backbone, and the standardisation of its features, are its last layer.
- `model.safetensors` alone: a network that timm does not have, or one after the meta stage.
- `head.safetensors`: another head on a frozen backbone. The backbone is referenced, or, if it is
  CLIP's image encoder, stored in open_clip's format.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cosup.errors import UserError, in_short
from cosup.files import discard, save_tensors, write_json
from cosup.layout import Layout
from cosup.models.classifier import Classifier
from cosup.models.clip import describe_encoder, save_encoder
from cosup.models.heads import HeadBank
from cosup.models.names import HUB
from cosup.models.networks import Backbone
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection
from cosup.models.weights import hash_tensors, hub_client
from cosup.student.timm_folder import (
    CONFIG,
    NETWORK,
    NotInTimm,
    check_in_timm,
    folded_network,
    write_timm,
)

__all__ = ["Settings", "identity", "read_settings", "save_head", "save_network", "student_folder"]

FORMAT = 1
"""The newest format of the folder that is written and read."""
HEAD, SETTINGS, CARD, TEAM = "head.safetensors", "student.json", "README.md", "team"
"""TEAM is a folder within that of the student."""
WEIGHTS = (CONFIG, NETWORK, HEAD)
"""Files that a form of the weights may have."""
DOWNLOADED = ("*.json", "*.safetensors", CARD)
"""Patterns of the files to download, at any depth."""
ALLOWED = "a run directory, a student's folder, or hf-hub:owner/name"


@dataclass(frozen=True)
class Settings:
    """What `student.json` says.

    backbone: of the network, or under the head. classes: names of the columns of probabilities.
    meta: whether it went through the meta stage. no_team: why there is no team. weights: the hash
    of the weights of a backbone that is referenced.
    """

    backbone: BackboneSection
    classes: tuple[str, ...]
    meta: bool = False
    no_team: str | None = None
    weights: str | None = None


def student_folder(where: str | Path) -> Path:
    """Return the folder of a student.

    where: that folder, the directory of its run, or `hf-hub:owner/name[@revision]`, which is
    downloaded into the hub's cache. Raises `UserError` if there is no student.
    """
    if str(where).startswith(HUB):
        return _downloaded(str(where))
    path = Path(where)
    if not path.is_dir():
        raise UserError("no folder {value}", value=str(path), allowed=ALLOWED)
    for place in (path, Layout(path).student):
        if (place / SETTINGS).is_file():
            return place
    raise UserError(f"holds no student ({SETTINGS})", value=str(path), allowed=ALLOWED)


def _downloaded(name: str) -> Path:
    repo, _, revision = name.partition(":")[2].partition("@")
    try:
        with hub_client():
            found = snapshot_download(
                repo,
                revision=revision or None,
                allow_patterns=list(DOWNLOADED),
                library_name="cosup",
            )
    except HFValidationError:
        problem, allowed = "is no name of a model on the hub", "hf-hub:owner/name[@revision]"
        raise UserError(problem, value=name, allowed=allowed) from None
    except LocalEntryNotFoundError:
        problem = "the hub cannot be reached, and the model was not downloaded before"
        raise UserError(problem, value=name) from None
    except RevisionNotFoundError:
        raise UserError("the model on the hub has no such revision", value=name) from None
    except RepositoryNotFoundError:
        problem = "the hub has no such model, or your account may not read it"
        raise UserError(problem, value=name) from None
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(f"cannot be downloaded ({in_short(error)})", value=name) from None
    if not (Path(found) / SETTINGS).is_file():
        raise UserError(f"is no student of cosup: it has no {SETTINGS}", value=name)
    return Path(found)


def read_settings(folder: Path) -> Settings:
    """Read `student.json`.

    A folder without `format` is from a cosup before format 1, and is read as that. Raises
    `UserError` for a file that is missing, damaged or of a newer format.
    """
    try:
        about: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        made = int(about.get("format", FORMAT))
        if made <= FORMAT:
            return Settings(
                BackboneSection.model_validate(about["backbone"]),
                tuple(map(str, about["classes"])),
                bool(about.get("meta", False)),
                about.get("no_team"),
                about.get("weights"),
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"is not an exported student: {SETTINGS} cannot be read ({in_short(error)})"
        raise UserError(problem, where=str(folder)) from None
    problem = (
        f"was written by a newer cosup (format {made}); this one reads up to {FORMAT}; "
        "upgrade cosup"
    )
    raise UserError(problem, where=str(folder))


def identity(folder: Path, team: bool) -> str:
    """Return a hash of a student, and of its team if `team`."""
    files = [SETTINGS, *WEIGHTS, *([f"{TEAM}/team.json"] if team else [])]
    digest = hashlib.sha256()
    for path in (folder / name for name in files if (folder / name).exists()):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def save_network(
    folder: Path,
    network: Classifier,
    section: BackboneSection,
    classes: Sequence[str],
    meta: bool = False,
    no_team: str | None = None,
) -> str | None:
    """Write the folder of a whole network, but for its card; return why timm cannot load it.

    section: the backbone that the network was built from. no_team: why there is no team.
    """
    written: tuple[str, ...] = (CONFIG, NETWORK)
    reason = None
    try:
        check_in_timm(section.name, None, meta)
        write_timm(folder, network, section, classes)
    except NotInTimm as error:
        written, reason = (NETWORK,), str(error)
        save_tensors(folder / NETWORK, network.model.state_dict())
        if section.name.startswith(OPEN_CLIP):
            describe_encoder(folder, section, network.input)
    _finish(folder, Settings(section, tuple(classes), meta, no_team), written)
    return reason


def save_head(
    folder: Path,
    head: HeadBank,
    backbone: Backbone,
    section: BackboneSection,
    classes: Sequence[str],
    no_team: str | None = None,
) -> str | None:
    """Write the folder of a head, but for its card; return why timm cannot load it.

    section: that of the backbone. no_team: why there is no team.
    """
    written: tuple[str, ...] = (CONFIG, NETWORK)
    reason, weights = None, None
    try:
        check_in_timm(section.name, head.kind, meta=False)
        network, logits = folded_network(backbone, head)
        write_timm(folder, network, section, classes, logits)
    except NotInTimm as error:
        written, reason = (HEAD,), str(error)
        save_tensors(folder / HEAD, head.state_dict())
        tower = backbone.model.state_dict()
        weights = hash_tensors(tower)
        if backbone.logit_scale is not None:
            save_encoder(folder, section, backbone.input, tower, backbone.logit_scale)
    _finish(folder, Settings(section, tuple(classes), False, no_team, weights), written)
    return reason


def _finish(folder: Path, settings: Settings, written: Sequence[str]) -> None:
    """Write `student.json`, and remove weights of another form from an earlier export."""
    for name in set(WEIGHTS) - set(written):
        discard(folder / name)
    about = {
        "format": FORMAT,
        "backbone": settings.backbone.model_dump(),
        "weights": settings.weights,
        "meta": settings.meta,
        "no_team": settings.no_team,
        "classes": list(settings.classes),
    }
    write_json(folder / SETTINGS, about)
