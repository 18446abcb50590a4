"""The exported team: the teachers that taught a student, routed, answering with it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.config.schema import Assigners
from cosup.config.teacher_model import TeacherSetup
from cosup.config.teachers import TeachersSection
from cosup.data.given import GivenImages, as_samples
from cosup.data.transforms import eval_transform
from cosup.errors import RunError, UserError, in_short
from cosup.evidence import Scopes
from cosup.levels import ArrayAnnotations, Level
from cosup.models.backbone import Backbone, load_backbone
from cosup.models.compute import Compute, resolve_precision
from cosup.models.weights import hash_tensors
from cosup.probabilities import ProbTable
from cosup.settings.teachers import ZERO_SHOT
from cosup.student.reading import check_head, check_recorded, of_folder, read_tensors
from cosup.student.schema import TeamFeatures, TeamFile, TeamTeacher, read_about
from cosup.student.stored import backbone_in
from cosup.student.team_folder import ASSIGNER, FEATURES, FORMAT, SETTINGS
from cosup.teachers.annotate import annotate_by_name
from cosup.teachers.base import TEMPERATURE, Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec, scopes
from cosup.teachers.train import restored
from cosup.teachers.trusted import check_teacher_from_elsewhere
from cosup.team import Answering, Exponents, ask_team, combine

__all__ = ["ExportedTeam", "load_team"]

BATCH = 64
LINEAR = ("linear_pixels", "linear_features", ZERO_SHOT)
"""Kinds of teachers whose weights are those of a head."""


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


def load_team(
    folder: Path, classes: Sequence[str], device: torch.device, packages: Collection[str] = ()
) -> ExportedTeam:
    """Load the team in a student's folder.

    classes: those of the student. packages: modules that it may import. Raises `UserError` for a
    folder that is not that of a team, a file that is missing or broken, other classes, other
    weights of a backbone, and a module that is not allowed or cannot be imported. Raises `Damaged`
    for a file that is not what was written.
    """
    where = str(folder)
    check_recorded(folder / SETTINGS, folder.parent)
    about = read_about(folder / SETTINGS, TeamFile, "an exported team", FORMAT)
    if about.classes != tuple(classes):
        problem = f"{SETTINGS} has other classes than the student"
        raise UserError(problem, value=list(about.classes), where=where)
    try:
        with of_folder(folder):
            return _Loader(folder, about, device, packages).team()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, UserError | RunError):
            raise
        raise UserError(f"is not an exported team ({in_short(error)})", where=where) from None


class _Loader:
    """Loads the parts of a team that are not in `team.json`."""

    def __init__(
        self, folder: Path, about: TeamFile, device: torch.device, packages: Collection[str]
    ) -> None:
        self.folder, self.about, self.packages = folder, about, packages
        self.compute = Compute(device, resolve_precision("auto", device))
        self.cache = FeatureCache(self.compute)
        data = as_samples(GivenImages([]), about.classes, about.domains)
        self.training = Training(TeachersSection(), data, about.seed, self.cache)

    def team(self) -> ExportedTeam:
        about, entries = self.about, self.about.teachers
        specs = [self._spec(entry) for entry in entries]
        assigner = Assigners.build(Assigners.check(about.assigner))
        if (self.folder / ASSIGNER).exists():
            assigner.load_state_dict(read_tensors(self.folder / ASSIGNER, self.folder.parent))
        return ExportedTeam(
            names=tuple(spec.name for spec in specs),
            teachers={
                place: self._teacher(spec, entry)
                for place, (spec, entry) in enumerate(zip(specs, entries, strict=True))
                if entry.answers
            },
            scopes=scopes(specs, len(about.classes), len(about.domains)),
            assigner=assigner,
            exponents=Exponents(about.student_exponent, about.team_exponent),
            classes=about.classes,
            domains=about.domains,
            cache=self.cache,
            features=self._backbone(about.features),
        )

    def _spec(self, entry: TeamTeacher) -> TeacherSpec:
        def places(members: Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...] | None:
            return None if members is None else tuple(names.index(member) for member in members)

        model = entry.model
        if entry.answers:
            check_teacher_from_elsewhere(model, self.packages)
        if entry.answers and model.features is not None:
            place = self.folder / (entry.encoder or "")
            model = model.reading(
                backbone_in(place, model.features, self.folder.parent, self.packages)
            )
        return TeacherSpec(
            entry.name,
            entry.level,
            places(entry.classes, self.about.classes),
            places(entry.domains, self.about.domains),
            setup=TeacherSetup(model, entry.training),
        )

    def _teacher(self, spec: TeacherSpec, entry: TeamTeacher) -> Teacher:
        if spec.model.features is not None:
            source = self.training.features.source(spec.model.features)
            _check_weights(source.backbone, entry.backbone, self.folder)
        state = {} if entry.weights is None else self._state(entry.weights, spec, entry.hash)
        return restored(spec, self.training, state, entry.steps)

    def _state(self, file: str, spec: TeacherSpec, expected: str | None) -> dict[str, Tensor]:
        state = read_tensors(self.folder / file, self.folder.parent)
        if hash_tensors(state) != expected:
            problem = f"{file} has other weights than those of teacher '{spec.name}'"
            raise UserError(problem, where=str(self.folder))
        if spec.model.traits.kind in LINEAR:
            head = {name: part for name, part in state.items() if name != TEMPERATURE}
            check_head(head, self.folder / file, len(self.about.classes))
        return state

    def _backbone(self, about: TeamFeatures | None) -> Backbone | None:
        if about is None:
            return None
        place = self.folder / FEATURES
        section = backbone_in(place, about.backbone, self.folder.parent, self.packages)
        backbone = load_backbone(section, self.compute)
        _check_weights(backbone, about.weights, self.folder)
        return backbone


def _check_weights(backbone: Backbone, expected: str | None, folder: Path) -> None:
    if hash_tensors(backbone.model.state_dict()) != expected:
        problem = f"the backbone {backbone.name} has other weights than those it was exported with"
        raise UserError(problem, where=str(folder))
