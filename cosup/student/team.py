"""The exported team: the teachers that taught a student, routed, answering with it.

It is the folder `team` within that of the student: `team.json` (teachers, scopes, assigner,
exponents), the weights of each teacher and the learned state of the assigner. A frozen backbone is
referenced, as that of a student, and a function by its module.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.config.schema import Assigners
from cosup.config.teacher_model import TeacherModelSection, TeacherSetup
from cosup.config.teachers import TeachersSection
from cosup.data.given import GivenImages, as_samples
from cosup.data.transforms import eval_transform
from cosup.errors import UserError
from cosup.evidence import Scopes
from cosup.files import save_tensors, write_json
from cosup.levels import ArrayAnnotations, Level
from cosup.models.clip import encoder_in, save_encoder
from cosup.models.compute import Compute, resolve_precision
from cosup.models.networks import Backbone, load_backbone
from cosup.models.section import BackboneSection, TrainingSection
from cosup.models.weights import hash_tensors
from cosup.probabilities import ProbTable
from cosup.teachers.annotate import annotate_by_name
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec, scopes
from cosup.teachers.train import kind_of
from cosup.team import Answering, Exponents, ask_team, combine

__all__ = ["ExportedTeam", "SavedTeacher", "load_team", "save_team"]

log = logging.getLogger(__name__)

SETTINGS, ASSIGNER, ENCODER = "team.json", "assigner.safetensors", "backbone"
BATCH = 64


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
    own. Of the backbones of teachers CLIP's image encoders are stored, and others are referenced.
    """
    encoders: dict[Backbone, str] = {}
    entries = []
    for teacher in teachers:
        file = f"{teacher.spec.name}.safetensors" if teacher.state else None
        if file is not None:
            save_tensors(folder / file, teacher.state)
        encoder = _stored_encoder(teacher, encoders, folder)
        entries.append({**_entry(teacher, file, about), "encoder": encoder})
    settings, state = assigner
    if state:
        save_tensors(folder / ASSIGNER, state)
    write_json(
        folder / SETTINGS,
        {
            "format": 2,
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
    """Store the image encoder of CLIP that a teacher reads; return its folder, or None.

    encoders: those that are stored already, which is added to.
    """
    backbone, section = teacher.backbone, teacher.spec.model.features
    if backbone is None or backbone.logit_scale is None:
        return None
    assert section is not None
    if backbone not in encoders:
        number = len(encoders) + 1
        encoders[backbone] = ENCODER if number == 1 else f"{ENCODER}_{number}"
        place, tower = folder / encoders[backbone], backbone.model.state_dict()
        save_encoder(place, section, backbone.input, tower, backbone.logit_scale)
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


@dataclass(frozen=True)
class ExportedTeam:
    """Teachers, routed by the assigner of their run.

    names: of all T teachers, as columns of weights. teachers: those that answer, by their column.
    exponents: of student and team (`cosup.team.combine`). features: the backbone whose features the
    assigner reads; None: the student's own.
    """

    names: tuple[str, ...]
    teachers: Mapping[int, Teacher]
    scopes: Scopes
    assigner: Assigner
    exponents: Exponents
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    cache: FeatureCache
    features: Backbone | None = None

    @torch.inference_mode()
    def predict(
        self, images: GivenImages, student: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return probabilities [N, C] by student and team, and the weights [N, T] of the teachers.

        images: a batch, of which every one can be read. student: probabilities [N, C]. features:
        [N, D] of a student that is a head.
        """
        data = as_samples(images, self.classes, self.domains)
        able = torch.zeros(len(self.names), dtype=torch.bool)
        able[list(self.teachers)] = True
        annotations = torch.zeros(len(images), len(self.names), len(self.classes))
        column = {teacher.name: place for place, teacher in self.teachers.items()}
        members, rows = list(self.teachers.values()), np.arange(len(images))
        for name, table in annotate_by_name(members, data, rows, self.cache.compute).items():
            annotations[:, column[name]] = table.dense()
        self.cache.opened.clear()
        level = Level(0, self.scopes, Answering(ArrayAnnotations(annotations), able))
        # Rounded as in the run: features and probabilities are stored in half precision.
        own = ProbTable.compress(student)
        read = self._features(images) if self.features is not None else features
        asked = ask_team(self.assigner, level, own, None if read is None else read.half())
        return combine(own.dense(), asked.probs.dense(), self.exponents), asked.weights

    def _features(self, images: GivenImages) -> Tensor:
        assert self.features is not None
        transform = eval_transform(self.features.input)
        pixels = torch.stack([transform(images.read(place)) for place in range(len(images))])
        return torch.cat([self.features(part).cpu() for part in torch.split(pixels, BATCH)])


def load_team(folder: Path, classes: Sequence[str], device: torch.device) -> ExportedTeam:
    """Load the team in a student's folder.

    classes: those of the student. Raises `UserError` for a folder that is not that of a team, a
    file that is missing or broken, other classes, other weights of a backbone, and a function that
    cannot be imported.
    """
    where = str(folder)
    try:
        about: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
        if list(classes) != about["classes"]:
            problem = f"{SETTINGS} has other classes than the student"
            raise UserError(problem, value=about["classes"], where=where)
        return _loaded(folder, about, Compute(device, resolve_precision("auto", device)))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"is not an exported team ({text})", where=where) from None


def _loaded(folder: Path, about: Mapping[str, Any], compute: Compute) -> ExportedTeam:
    classes, domains = tuple(about["classes"]), tuple(about["domains"])
    cache = FeatureCache(compute)
    data = as_samples(GivenImages([]), classes, domains)
    training = Training(TeachersSection(), data, int(about["seed"]), cache)
    entries = [{**_common(about), **entry} for entry in about["teachers"]]
    specs = [_spec(entry, classes, domains, folder) for entry in entries]
    teachers = {
        place: _teacher(spec, entry, training, folder)
        for place, (spec, entry) in enumerate(zip(specs, entries, strict=True))
        if entry["answers"]
    }
    assigner = Assigners.build(Assigners.check(about["assigner"]))
    if (folder / ASSIGNER).exists():
        assigner.load_state_dict(load_file(folder / ASSIGNER))
    return ExportedTeam(
        names=tuple(spec.name for spec in specs),
        teachers=teachers,
        scopes=scopes(specs, len(classes), len(domains)),
        assigner=assigner,
        exponents=Exponents(float(about["student_exponent"]), float(about["team_exponent"])),
        classes=classes,
        domains=domains,
        cache=cache,
        features=_backbone(about["features"], folder, compute),
    )


def _common(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what format 1 says of all teachers at once, and later formats of each."""
    keys = "model", "training", "backbone"
    return {key: about[key] for key in keys if key in about} | {"encoder": ENCODER}


def _teacher(
    spec: TeacherSpec, entry: Mapping[str, Any], training: Training, folder: Path
) -> Teacher:
    if spec.model.features is not None:
        source = training.features.source(spec.model.features)
        _check_weights(source.backbone, entry["backbone"], folder)
    state = {} if entry["weights"] is None else load_file(folder / entry["weights"])
    if entry["weights"] is not None and hash_tensors(state) != entry["hash"]:
        problem = f"{entry['weights']} has other weights than those of teacher '{spec.name}'"
        raise UserError(problem, where=str(folder))
    return kind_of(spec).restore(spec, training, state, int(entry["steps"]))


def _spec(
    entry: Mapping[str, Any], classes: Sequence[str], domains: Sequence[str], folder: Path
) -> TeacherSpec:
    def places(members: Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...] | None:
        return None if members is None else tuple(names.index(member) for member in members)

    scope = places(entry["classes"], classes), places(entry["domains"], domains)
    model = TeacherModelSection.model_validate(entry["model"])
    if model.features is not None and entry["encoder"] is not None:
        model = model.reading(encoder_in(folder / entry["encoder"], model.features))
    setup = TeacherSetup(model, TrainingSection.model_validate(entry["training"]))
    return TeacherSpec(entry["name"], int(entry["level"]), *scope, setup=setup)


def _backbone(about: Mapping[str, Any] | None, folder: Path, compute: Compute) -> Backbone | None:
    if about is None:
        return None
    section = BackboneSection.model_validate(about["backbone"])
    backbone = load_backbone(section, compute)
    _check_weights(backbone, about["weights"], folder)
    return backbone


def _check_weights(backbone: Backbone, expected: str, folder: Path) -> None:
    if hash_tensors(backbone.model.state_dict()) != expected:
        problem = f"the backbone {backbone.name} has other weights than those it was exported with"
        raise UserError(problem, where=str(folder))
