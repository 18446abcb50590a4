"""The folder of an exported student: where it is, which files it has, and what `student.json` says.

The weights have one of three forms:

- `config.json` and `model.safetensors`: a network of timm's, as timm reads it. The head of a frozen
  backbone, and the standardisation of its features, are its last layer.
- `model.safetensors` alone: a network that timm does not have, or one after the meta stage.
- `head.safetensors`: another head on a frozen backbone, which is referenced or stored
  (`cosup.student.stored`).

`manifest.jsonl` records the files by size and digest (`cosup.manifest`).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cosup.errors import UserError, in_short
from cosup.files import discard, save_tensors, to_json
from cosup.layout import Layout
from cosup.manifest import MANIFEST, Manifest
from cosup.models.backbone import Backbone
from cosup.models.classifier import Classifier
from cosup.models.clip import describe_encoder
from cosup.models.heads import HeadBank
from cosup.models.names import HUB, is_weights_file
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import BackboneSection
from cosup.models.weights import hash_tensors, hub_client
from cosup.origins import has_folder, is_there, obtain_below, shown
from cosup.remote_copy import folder_of
from cosup.student.reading import check_recorded
from cosup.student.schema import StudentFile, read_about
from cosup.student.stored import BACKBONE, store_backbone
from cosup.student.timm_folder import (
    CONFIG,
    NETWORK,
    NotInTimm,
    check_in_timm,
    folded_network,
    write_timm,
)

__all__ = [
    "identity",
    "read_settings",
    "record_files",
    "save_head",
    "save_network",
    "student_folder",
]

FORMAT = 1
"""The newest format of the folder that is written and read."""
HEAD, SETTINGS, CARD, TEAM = "head.safetensors", "student.json", "README.md", "team"
"""TEAM is a folder within that of the student."""
WEIGHTS = (CONFIG, NETWORK, HEAD)
"""Files that a form of the weights may have."""
DOWNLOADED = ("*.json", "*.safetensors", CARD, MANIFEST)
"""Patterns of the files to download, at any depth."""
ALLOWED = "the directory or URI of a run or of a student, or hf-hub:owner/name"


def student_folder(where: str | Path) -> Path:
    """Return the folder of a student.

    where: that folder, the directory of its run, a URI of either, or
    `hf-hub:owner/name[@revision]`, which is downloaded into the hub's cache. At a URI the files of
    the student are copied, and those of its team when it is used. Raises `UserError` if there is no
    student.
    """
    if str(where).startswith(HUB):
        return _downloaded(str(where))
    path = folder_of(where)
    if not has_folder(path):
        raise UserError("no folder {value}", value=shown(path), allowed=ALLOWED)
    for place in (path, Layout(path).student):
        if is_there(place / SETTINGS):
            obtain_below(place, but=lambda name: name.startswith(f"{TEAM}/"))
            return place
    raise UserError(f"holds no student ({SETTINGS})", value=shown(path), allowed=ALLOWED)


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


def read_settings(folder: Path) -> StudentFile:
    """Read `student.json`.

    A folder without `format` is from a cosup before format 1, and is read as that. Raises
    `UserError` for a file that is missing, broken or of a newer format, and `Damaged` for one that
    is not what was written.
    """
    check_recorded(folder / SETTINGS, folder)
    return read_about(folder / SETTINGS, StudentFile, "an exported student", FORMAT)


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
    _finish(folder, _settings(section, classes, meta, no_team), written)
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
        weights = hash_tensors(backbone.model.state_dict())
        if is_weights_file(section.weights):
            written = (HEAD, BACKBONE)
        store_backbone(folder, section, backbone)
    _finish(folder, _settings(section, classes, False, no_team, weights), written)
    return reason


def _settings(
    backbone: BackboneSection,
    classes: Sequence[str],
    meta: bool,
    no_team: str | None,
    weights: str | None = None,
) -> StudentFile:
    return StudentFile(
        format=FORMAT,
        backbone=backbone,
        classes=tuple(classes),
        meta=meta,
        no_team=no_team,
        weights=weights,
    )


def _finish(folder: Path, settings: StudentFile, written: Sequence[str]) -> None:
    """Remove weights of another form from an earlier export, record the others, and write
    `student.json`, which makes the folder a student's."""
    for name in {*WEIGHTS, BACKBONE} - set(written):
        discard(folder / name)
    record_files(folder)
    Manifest(folder).write(folder / SETTINGS, (to_json(settings.model_dump()) + "\n").encode())


def record_files(folder: Path) -> None:
    """Record all files of a student's folder in its manifest."""
    manifest = Manifest(folder)
    there = [path for path in sorted(folder.rglob("[!.]*")) if path.is_file()]
    for path in there:
        if path != manifest.path:
            manifest.record(path)
    for name in manifest.entries():
        if folder / name not in there:
            manifest.forget(folder / name)
    manifest.close()
