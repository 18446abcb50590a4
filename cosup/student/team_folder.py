"""The folder of an exported team: `team` within that of the student.

It holds `team.json` (teachers, scopes, assigner, exponents), the weights of each teacher and the
learned state of the assigner. A frozen backbone is stored or referenced, as that of a student, and
a function referenced by its module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cosup.files import save_tensors, write_json
from cosup.models.backbone import Backbone
from cosup.models.section import BackboneSection
from cosup.models.weights import hash_tensors
from cosup.student.schema import ENCODER
from cosup.student.stored import is_stored, store_backbone
from cosup.teachers.hierarchy import TeacherSpec

__all__ = ["ASSIGNER", "FEATURES", "FORMAT", "SETTINGS", "SavedTeacher", "save_team"]

FORMAT = 2
"""The newest format of a team that is written and read."""
SETTINGS, ASSIGNER, FEATURES = "team.json", "assigner.safetensors", "features"


@dataclass(frozen=True)
class SavedTeacher:
    """A teacher to be exported.

    state: its weights, empty for a kind without. answers: whether it can answer new images; the
    scope of one that cannot is still part of what the assigner has learnt. backbone: the one whose
    frozen features it reads, or None.
    """

    spec: TeacherSpec
    state: Mapping[str, Tensor]
    steps: int
    answers: bool
    backbone: Backbone | None = None


def save_team(
    folder: Path,
    teachers: Sequence[SavedTeacher],
    assigner: tuple[Mapping[str, Any], Mapping[str, Tensor]],
    about: Mapping[str, Any],
    features: tuple[BackboneSection, Backbone] | None = None,
) -> None:
    """Write the folder of a team.

    assigner: its name and settings, and its learned state. about: classes, domains, seed and
    exponents. features: the backbone whose features the assigner reads, if it is not the student's
    own. Backbones are stored or referenced as in `cosup.student.stored`.
    """
    encoders: dict[Backbone, str] = {}
    entries = []
    for teacher in teachers:
        file = f"{teacher.spec.name}.safetensors" if teacher.state else None
        if file is not None:
            save_tensors(folder / file, teacher.state)
        encoder = _stored_encoder(teacher, encoders, folder)
        entries.append({**_entry(teacher, file, about), "encoder": encoder})
    if features is not None:
        store_backbone(folder / FEATURES, *features)
    settings, state = assigner
    if state:
        save_tensors(folder / ASSIGNER, state)
    write_json(
        folder / SETTINGS,
        {
            "format": FORMAT,
            **about,
            "teachers": entries,
            "assigner": dict(settings),
            "features": None
            if features is None
            else {
                "backbone": features[0].model_dump(),
                "weights": hash_tensors(features[1].model.state_dict()),
            },
        },
    )


def _stored_encoder(
    teacher: SavedTeacher, encoders: dict[Backbone, str], folder: Path
) -> str | None:
    """Store the backbone that a teacher reads, if it has to be; return its folder, or None.

    encoders: those that are stored already, which is added to.
    """
    backbone, section = teacher.backbone, teacher.spec.model.features
    if backbone is None or section is None or not is_stored(section, backbone):
        return None
    if backbone not in encoders:
        number = len(encoders) + 1
        encoders[backbone] = ENCODER if number == 1 else f"{ENCODER}_{number}"
        store_backbone(folder / encoders[backbone], section, backbone)
    return encoders[backbone]


def _entry(teacher: SavedTeacher, file: str | None, about: Mapping[str, Any]) -> dict[str, Any]:
    spec = teacher.spec
    return {
        "name": spec.name,
        "answers": teacher.answers,
        "level": spec.level,
        "classes": _named(spec.classes, about["classes"]),
        "domains": _named(spec.domains, about["domains"]),
        "steps": teacher.steps,
        "weights": file,
        "hash": hash_tensors(dict(teacher.state)) if file else None,
        "model": spec.model.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
        "backbone": hash_tensors(teacher.backbone.model.state_dict()) if teacher.backbone else None,
    }


def _named(members: Sequence[int] | None, names: Sequence[str]) -> list[str] | None:
    return None if members is None else [names[index] for index in members]
