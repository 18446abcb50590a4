"""Every kind of teacher fulfils the contract, and installed packages can add kinds."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_clip import one_vocabulary
from helpers.user_errors import error_of
from numpy.typing import NDArray
from pydantic import ValidationError
from teacher_helpers import BLOCKS, TINY, annotations, finest, section_of, teachers_section

import cosup.settings.teachers as teacher_kinds
import cosup.teachers.network as timm_model
from cosup.config.schema import Config
from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import PixelTransform
from cosup.errors import RunError, UserError
from cosup.models.compute import Compute
from cosup.settings.teachers import TEACHERS, TeacherTraits, match_kind
from cosup.teachers.base import (
    Teacher,
    Training,
    masked_softmax,
)
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.train import (
    check_teachers,
    obtain_level,
    planned_steps,
    teacher_groups,
    train_level,
    train_teacher,
)


@pytest.fixture(scope="module", autouse=True)
def vocabulary() -> Iterator[None]:
    with one_vocabulary():
        yield


@pytest.mark.parametrize("kind", TEACHERS)
def test_every_kind_fulfils_the_contract(
    kind: str, data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = section_of(kind, data, tmp_path)
    specs = finest(section, data)
    check_teachers((specs,), Training(section, data, 0, features))
    teachers = train_level(specs, Training(section, data, 0, features))
    assert [teacher.name for teacher in teachers] == [spec.name for spec in specs]
    for teacher, own in zip(teachers, [range(5), range(5, 10)], strict=True):
        assert teacher.kind == kind
        probs = annotations(teacher, data, features.compute)
        assert probs.shape == (len(data.rows("test")), 10)
        assert probs.dtype == torch.float32
        outside = [c for c in range(10) if c not in own]
        assert (probs[:, outside] == 0).all()
        assert teacher.support.nonzero()[:, 0].tolist() == list(own)
        total = probs.sum(1)
        assert ((total - 1).abs().lt(1e-5) | (total == 0)).all()
        smaller = replace(features.compute, batch_size=7)
        again = annotations(teacher, data, smaller)
        torch.testing.assert_close(probs, again, atol=1e-5, rtol=0)
    assert len({teacher.identity for teacher in teachers}) == 2
    once_more = train_level(specs, Training(section, data, 0, features))
    assert [t.identity for t in once_more] == [t.identity for t in teachers]


@pytest.mark.parametrize("kind", TEACHERS)
def test_traits_of_every_kind(
    kind: str, data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = section_of(kind, data, tmp_path)
    specs = finest(section, data)
    entry = TEACHERS[kind]
    cls = entry.load()
    assert cls.kind == entry.settings.kind == kind
    assert issubclass(cls, Teacher)
    assert issubclass(cls, entry.settings)
    assert [traits.kind for _, _, traits in section.kinds()] == [kind]
    assert len(teacher_groups(specs)) == (1 if cls.fits_many else len(specs))
    teacher = train_level(specs, Training(section, data, 0, features))[0]
    batch = next(iter(teacher.inputs(data, data.rows("test"), features.compute)))
    assert (batch.dtype == torch.uint8 and batch.dim() == 4) == cls.reads_images
    assert bool(teacher.state()) == cls.has_weights
    assert (teacher.steps > 0) == cls.needs_labelled_samples
    assert (planned_steps(specs[0], data) > 0) == cls.needs_labelled_samples
    if cls.has_embedding:
        assert len(teacher.embed(batch)) == len(batch)
    else:
        with pytest.raises(UserError):
            teacher.embed(batch)
    if cls.is_network:
        assert teacher.network().num_classes == 10
    else:
        with pytest.raises(UserError):
            teacher.network()
    unlabelled = replace(data, table=data.table.query("split != 'teacher_train'"))
    unlabelled = replace(unlabelled, table=unlabelled.table.reset_index(drop=True))
    if cls.needs_labelled_samples:
        with pytest.raises(UserError):
            check_teachers((specs,), Training(section, unlabelled, 0, features))
    else:
        check_teachers((specs,), Training(section, unlabelled, 0, features))


class Brightness(Teacher):
    """Kind of an installed package; its probabilities depend on the mean pixel only."""

    kind = "brightness"
    reads_images = True
    required = ("image_size",)

    @classmethod
    def train(cls, specs: Sequence[TeacherSpec], training: Training) -> list[Teacher]:
        return [cls(spec, len(training.data.classes), 0) for spec in specs]

    @classmethod
    def restore(
        cls, spec: TeacherSpec, training: Training, state: Mapping[str, torch.Tensor], steps: int
    ) -> Teacher:
        return cls.train([spec], training)[0]

    @property
    def reads(self) -> str:
        return "brightness"

    def inputs(
        self, data: ImageData, rows: NDArray[np.int64], compute: Compute
    ) -> Iterator[torch.Tensor]:
        return image_batches(data, rows, PixelTransform(4), 64, 1)

    def annotate(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = inputs.float().mean((1, 2, 3))[:, None] / 255 * torch.arange(self.num_classes)
        return masked_softmax(logits, self.support)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package with the kind `brightness`."""
    point = EntryPoint("brightness", f"{__name__}:Brightness", teacher_kinds.GROUP)

    def entry_points(group: str) -> list[EntryPoint]:
        return [point] if group == teacher_kinds.GROUP else []

    for cached in (teacher_kinds._entry_points, teacher_kinds._installed_entry):
        cached.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(teacher_kinds, "entry_points", entry_points)
        yield
    for cached in (teacher_kinds._entry_points, teacher_kinds._installed_entry):
        cached.cache_clear()


@pytest.mark.usefixtures("installed")
def test_a_config_uses_the_kind_of_an_installed_package(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    model = {"name": "brightness", "image_size": 16}
    section = teachers_section(hierarchy=BLOCKS, model=model)
    specs, folder = finest(section, data), tmp_path / "teachers"
    check_teachers((specs,), Training(section, data, 0, features))
    for _ in range(2):
        teachers = obtain_level(specs, Training(section, data, 0, features, directory=folder))
        assert [type(teacher) for teacher in teachers] == [Brightness, Brightness]
        assert annotations(teachers[0], data, features.compute)[:, 5:].sum() == 0
    assert json.loads((folder / f"{specs[0].name}.json").read_text())["kind"] == "brightness"
    with pytest.raises(ValidationError):  # a key that its traits require
        teachers_section(model={"name": "brightness"})
    with pytest.raises(ValidationError):  # it is not a network
        Config.model_validate(
            {
                "data": {"source": "digits"},
                "teachers": {"model": model},
                "student": {"mode": "finetune", "backbone": {"name": TINY}},
                "rounds": {"live_annotations": True},
            }
        )


def test_without_the_package_its_kind_is_the_name_of_a_network() -> None:
    assert teachers_section(model={"name": "brightness"}).model.match.traits.is_network


@pytest.mark.parametrize("name", ["test_resnet", "hf-hub:owner/model", "network", "table", "call"])
def test_other_names_are_networks(name: str) -> None:
    assert match_kind(name).traits.is_network


def test_traits_are_those_of_the_implementation() -> None:
    names = [name for name in vars(TeacherTraits) if not name.startswith("_")]
    for entry in TEACHERS.values():
        for name in names:
            assert getattr(entry.load(), name) == getattr(entry.settings, name)


@pytest.mark.parametrize("kind", TEACHERS)
def test_resumed_runs_load_trained_teachers(
    kind: str,
    data: ImageData,
    features: FeatureCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    section = section_of(kind, data, tmp_path)
    specs, folder = finest(section, data), tmp_path / "teachers"

    def obtain(seed: int = 0) -> list[Teacher]:
        return obtain_level(specs, Training(section, data, seed, features, directory=folder))

    trained = obtain()

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(timm_model, "_train_network", forbidden)
        patch.setattr("cosup.teachers.linear.fit_heads", forbidden)
        loaded = obtain()
    for before, after in zip(trained, loaded, strict=True):
        assert (after.identity, after.steps) == (before.identity, before.steps)
        assert torch.equal(
            annotations(after, data, features.compute), annotations(before, data, features.compute)
        )
    # A run that was killed between two teachers gives the same numbers.
    (folder / f"{specs[1].name}.json").unlink()
    assert [teacher.identity for teacher in obtain()] == [teacher.identity for teacher in trained]
    # A truncated file is not loaded.
    weights = folder / f"{specs[0].name}.safetensors"
    if weights.exists():
        weights.write_bytes(weights.read_bytes()[:-8])
        assert [t.identity for t in obtain()] == [t.identity for t in trained]
        same = [t.identity for t in obtain(seed=1)] == [t.identity for t in trained]
        assert same != TEACHERS[kind].settings.needs_labelled_samples


BAD_MODELS = [
    ("resnet18z", "resnet18"),
    ("call:nowhere_to_be_found:f", "import 'nowhere_to_be_found'"),
    (f"call:{__name__}:nobody", "no function 'nobody'"),
    ("call:no_colon", "allowed: call:MODULE:FUNCTION"),
]


@pytest.mark.parametrize(("name", "message"), BAD_MODELS)
def test_unknown_models(data: ImageData, features: FeatureCache, name: str, message: str) -> None:
    section = teachers_section(model={"name": name})
    spec = finest(section, data)[0]
    path = list(sys.path)
    error = error_of(check_teachers, ((spec,),), Training(section, data, 0, features))
    assert message in str(error)
    assert error.value == name
    if name.startswith("call:"):
        assert error.key == ("teachers", "model", "name")
    else:
        assert "resnet18" in error.nearest
    assert sys.path == path


def test_a_misspelt_kind_is_found_by_the_config() -> None:
    with pytest.raises(ValidationError) as caught:
        teachers_section(model={"name": "linear_pixel"})
    message = "unknown teachers.model.name 'linear_pixel'; did you mean 'linear_pixels'"
    assert message in str(caught.value)


def wrong_shape(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), 3)


def unnormalised(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), 10)


def negative(images: torch.Tensor) -> torch.Tensor:
    return torch.full((len(images), 10), -0.1)


def fails(images: torch.Tensor) -> torch.Tensor:
    raise KeyError("oh")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong_shape", r"shape \(2, 3\) \(allowed: \(2, 10\)\)"),
        ("unnormalised", "sum to 10"),
        ("negative", "negative"),
        ("fails", "failed: KeyError"),
    ],
)
def test_functions_with_wrong_results(
    data: ImageData, features: FeatureCache, function: str, message: str
) -> None:
    model = {"name": f"call:{__name__}:{function}", "image_size": 16}
    section = teachers_section(model=model)
    teacher = train_teacher(finest(section, data)[0], Training(section, data, 0, features))
    with pytest.raises(RunError, match=message):
        teacher.annotate(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
