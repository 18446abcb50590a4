"""Teachers of every kind keep the contract, learn from their scope alone, and can be resumed."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.user_errors import error_of
from numpy.typing import NDArray
from pydantic import ValidationError
from teacher_helpers import TINY, finest, teachers_section

import cosup.data.loader as loader
import cosup.settings.teachers as teacher_kinds
import cosup.teachers.network as timm_model
from cosup.config.schema import Config
from cosup.config.teachers import TeachersSection
from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import PixelTransform
from cosup.errors import RunError, UserError
from cosup.files import save_tensors
from cosup.models.compute import Compute
from cosup.settings.teachers import TEACHERS, TeacherTraits, match_kind
from cosup.teachers import features as teacher_features
from cosup.teachers.base import (
    ScopedCrossEntropy,
    Teacher,
    Training,
    masked_softmax,
    training_rows,
)
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import LinearPixels
from cosup.teachers.train import (
    check_teachers,
    obtain_level,
    planned_steps,
    teacher_groups,
    train_level,
    train_teacher,
)

BLOCKS = {"by": "class", "levels": [2]}
SHORT = {"steps": 3, "batch_size": 16}


def ask(images: torch.Tensor, teacher: str) -> torch.Tensor:
    """A rule: bright images are a 7, the others a 1; teachers of the high digits say 9."""
    probs = torch.zeros(len(images), 10)
    bright = images.float().mean((1, 2, 3)) > 60
    probs[bright, 9 if "5-9" in teacher else 7] = 1
    probs[~bright, 1] = 1
    return probs


def section_of(kind: str, data: ImageData, folder: Path) -> TeachersSection:
    """A config of two teachers of this kind, each on half of the classes."""
    if kind == "linear_pixels":
        return teachers_section(hierarchy=BLOCKS)
    if kind == "linear_features":
        backbone = {"name": TINY, "weights": None, "image_size": 32}
        model = {"name": "linear_features", "backbone": backbone}
        return teachers_section(hierarchy=BLOCKS, model=model)
    if kind == "network":
        model = {"name": TINY, "image_size": 32}
        return teachers_section(hierarchy=BLOCKS, model=model, training=SHORT)
    if kind == "call":
        model = {"name": f"call:{__name__}:ask", "image_size": 16}
        return teachers_section(hierarchy=BLOCKS, model=model)
    tables = []
    for number, own in enumerate([range(5), range(5, 10)]):
        labels = data.table["label"].clip(min(own), max(own))
        path = folder / f"half_{number}.csv"
        frame = pd.DataFrame({"sample_id": data.table["sample_id"], "label": labels})
        frame[data.table["split"] != "teacher_train"].to_csv(path, index=False)
        scope = {"class": list(own)}
        tables.append({"name": f"half_{number}", "annotations": str(path), "scope": scope})
    return teachers_section(hierarchy=None, external=tables)


def annotations(teacher: Teacher, data: ImageData, compute: Compute) -> torch.Tensor:
    inputs = teacher.inputs(data, data.rows("test"), compute)
    return torch.cat([teacher.annotate(batch) for batch in inputs])


@pytest.mark.parametrize("kind", TEACHERS)
def test_every_kind_keeps_the_contract(
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
def test_every_kind_has_the_traits_that_it_states(
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
    assert len(teacher_groups(specs, section)) == (1 if cls.fits_many else len(specs))
    teacher = train_level(specs, Training(section, data, 0, features))[0]
    batch = next(iter(teacher.inputs(data, data.rows("test"), features.compute)))
    assert (batch.dtype == torch.uint8 and batch.dim() == 4) == cls.reads_images
    assert bool(teacher.state()) == cls.has_weights
    assert (teacher.steps > 0) == cls.needs_labelled_samples
    assert (planned_steps(specs[0], section, data) > 0) == cls.needs_labelled_samples
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
    """A kind of a third party: its probabilities depend on the mean pixel alone."""

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
    """An installed package with the kind `brightness`."""
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
def test_a_resumed_run_loads_what_was_trained(
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

    made = obtain()

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(timm_model, "_train_network", forbidden)
        patch.setattr("cosup.teachers.linear.fit_heads", forbidden)
        loaded = obtain()
    for before, after in zip(made, loaded, strict=True):
        assert (after.identity, after.steps) == (before.identity, before.steps)
        assert torch.equal(
            annotations(after, data, features.compute), annotations(before, data, features.compute)
        )
    # Killed between the first teacher and the second: the same numbers come out.
    (folder / f"{specs[1].name}.json").unlink()
    assert [teacher.identity for teacher in obtain()] == [teacher.identity for teacher in made]
    # A file that is cut off is not trusted.
    weights = folder / f"{specs[0].name}.safetensors"
    if weights.exists():
        weights.write_bytes(weights.read_bytes()[:-8])
        assert [t.identity for t in obtain()] == [t.identity for t in made]
        assert [t.identity for t in obtain(seed=1)] != [t.identity for t in made]


def test_specialists_know_their_domain_best(data: ImageData, features: FeatureCache) -> None:
    section = teachers_section()
    specs = finest(section, data)
    teachers = train_level(specs, Training(section, data, 0, features))
    rows = np.concatenate([data.rows("test"), data.rows("student_train")])
    truth = data.truth(rows)
    for teacher in teachers:
        assert teacher.steps == 60
        batches = teacher.inputs(data, rows, features.compute)
        right = torch.cat([teacher.annotate(b) for b in batches]).argmax(1) == truth.labels
        assert teacher.spec.domains is not None
        own = truth.domains == teacher.spec.domains[0]
        assert right[own].float().mean() > 0.75
        assert right[own].float().mean() > right[~own].float().mean() + 0.2


@pytest.mark.parametrize("kind", ["linear_pixels", "network"])
def test_teachers_see_labels_of_their_scope_in_teacher_train_alone(
    kind: str, data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = section_of(kind, data, tmp_path)
    specs = finest(section, data)
    own = data.table["split"].eq("teacher_train") & data.table["label"].isin(range(5))
    unknown = data.table["split"].eq("student_train")
    swapped = data.table["label"].where(own, (data.table["label"] - 4) % 5 + 5)
    labels = swapped.where(~unknown, -1)
    other = replace(data, table=data.table.assign(label=labels, given=labels))
    seen = train_level(specs, Training(section, data, 0, features))[0]
    unseen = train_level(specs, Training(section, other, 0, features))[0]
    assert seen.identity == unseen.identity


def test_training_rows_are_those_of_the_scope(data: ImageData) -> None:
    spec = TeacherSpec("x", 0, classes=(1, 4), domains=(2,))
    table = data.table
    expected = table.query("split == 'teacher_train' and label in [1, 4] and domain == 2").index
    assert training_rows(spec, data).tolist() == expected.tolist()
    assert training_rows(TeacherSpec("all", 0), data).tolist() == (
        data.rows("teacher_train").tolist()
    )
    nobody = replace(data, table=table[table["label"] != 1].reset_index(drop=True))
    error = error_of(training_rows, replace(spec, classes=(1,)), nobody)
    assert error.where == "teacher 'x'"
    assert "teacher_train" in str(error)


def test_budgets_in_epochs_follow_each_scope(data: ImageData, features: FeatureCache) -> None:
    tables = [
        [
            {"name": "few", "scope": {"class": [0, 1]}},
            {"name": "many", "scope": {"class": [2, 3, 4, 5, 6, 7, 8, 9]}},
        ]
    ]
    training = {"epochs": 2, "batch_size": 20}
    section = teachers_section(hierarchy={"by": "explicit", "teachers": tables}, training=training)
    specs = finest(section, data)
    teachers = train_level(specs, Training(section, data, 0, features))
    for teacher in teachers:
        count = len(training_rows(teacher.spec, data))
        assert teacher.steps == round(2 * np.ceil(count / 20))
    assert teachers[0].steps < teachers[1].steps


def test_scoped_loss_is_cross_entropy_over_the_own_classes() -> None:
    logits = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    support = torch.tensor([[True, True, False, False, True], [True] * 5])
    labels = torch.tensor([[0, 1, 4, 0, 1, 4], [0, 1, 2, 3, 4, 0]])
    targets = torch.nn.functional.one_hot(labels, 5).double()
    losses, _ = ScopedCrossEntropy(support)(logits, targets, 0.5)
    for head, own in enumerate([[0, 1, 4], [0, 1, 2, 3, 4]]):
        within = torch.tensor([own.index(label) for label in labels[head].tolist()])
        expected = torch.nn.functional.cross_entropy(logits[head][:, own], within, reduction="none")
        torch.testing.assert_close(losses[head], expected)
    losses.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[0][:, [2, 3]] == 0).all()
    assert torch.isfinite(logits.grad).all()


def test_a_backbone_runs_once_per_image_for_all_teachers(
    data: ImageData, features: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counting(part: ImageData, rows: Any, *rest: Any) -> Any:
        decoded.extend(rows.tolist())
        return image_batches(part, rows, *rest)

    monkeypatch.setattr(teacher_features, "image_batches", counting)
    section = section_of("linear_features", data, tmp_path)
    specs = finest(section, data)
    for teacher in train_level(specs, Training(section, data, 0, features)):
        annotations(teacher, data, features.compute)
    assert decoded == list(range(len(data)))


def test_networks_train_alike_from_memory_and_from_files(
    data: ImageData, features: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = section_of("network", data, tmp_path)
    spec = finest(section, data)[0]
    whole = train_teacher(spec, Training(section, data, 0, features))
    monkeypatch.setattr(loader, "MEMORY", 0)
    assert train_teacher(spec, Training(section, data, 0, features)).identity == whole.identity
    assert whole.steps == 3


def test_checkpoints_are_used_as_they_are(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = section_of("network", data, tmp_path)
    specs = finest(section, data)
    trained = train_level(specs, Training(section, data, 0, features))
    for teacher in trained:
        save_tensors(tmp_path / f"{teacher.name}.safetensors", teacher.state())
    checkpoint = str(tmp_path / "{name}.safetensors")
    model = {"name": TINY, "image_size": 32, "checkpoint": checkpoint}
    section = teachers_section(hierarchy=BLOCKS, model=model)
    check_teachers((specs,), Training(section, data, 5, features))
    loaded = train_level(specs, Training(section, data, 5, features))
    assert [t.identity for t in loaded] == [t.identity for t in trained]
    assert [t.steps for t in loaded] == [0, 0]


def test_a_loss_that_is_not_finite_stops_and_says_where(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    training = {"steps": 20, "lr": 1e30, "batch_size": 16}
    model = {"name": TINY, "image_size": 32}
    section = teachers_section(hierarchy=BLOCKS, model=model, training=training)
    spec = finest(section, data)[0]
    with pytest.raises(RunError, match=r"'classes_0-4'.*not finite at step \d+ of 20"):
        train_teacher(spec, Training(section, data, 0, features))


BAD_MODELS = [
    ("resnet18z", "resnet18"),
    ("call:nowhere_to_be_found:f", "import 'nowhere_to_be_found'"),
    (f"call:{__name__}:nobody", "no function 'nobody'"),
    ("call:ask", "allowed: call:MODULE:FUNCTION"),
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
def test_callables_that_answer_wrongly(
    data: ImageData, features: FeatureCache, function: str, message: str
) -> None:
    model = {"name": f"call:{__name__}:{function}", "image_size": 16}
    section = teachers_section(model=model)
    teacher = train_teacher(finest(section, data)[0], Training(section, data, 0, features))
    with pytest.raises(RunError, match=message):
        teacher.annotate(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


def external(
    data: ImageData, path: Path, frame: pd.DataFrame, features: FeatureCache, **settings: Any
) -> Any:
    frame.to_csv(path / "crowd.csv", index=False)
    table = {"name": "crowd", "annotations": str(path / "crowd.csv"), **settings}
    section = teachers_section(hierarchy=None, external=[table])
    return finest(section, data)[0], Training(section, data, 0, features)


def test_tables_with_missing_samples(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    needed = data.table[data.table["split"] != "teacher_train"]
    some = needed[["sample_id", "label"]].iloc[1:]
    first = needed["sample_id"].iloc[0]
    error = error_of(train_teacher, *external(data, tmp_path, some, features))
    assert error.where == f"annotation table {tmp_path / 'crowd.csv'}"
    assert error.allowed is not None
    assert "missing: abstain" in error.allowed
    assert f"'{first}'" in str(error)
    assert " 1 of " in str(error)
    arguments = external(data, tmp_path, some, features, missing="abstain")
    teacher = train_teacher(*arguments)
    probs = teacher.annotate(torch.tensor(needed.index.to_list()))
    assert (probs[0] == 0).all()
    assert probs.argmax(1)[1:].tolist() == some["label"].tolist()
    elsewhere = some.assign(sample_id="other_" + some["sample_id"])
    for missing in ("error", "abstain"):
        arguments = external(data, tmp_path, elsewhere, features, missing=missing)
        with pytest.raises(UserError, match="none of its sample ids"):
            check_teachers(((arguments[0],),), arguments[1])


def test_pixels_are_what_the_transform_says(data: ImageData, features: FeatureCache) -> None:
    section = teachers_section(model={"name": "linear_pixels", "size": 4})
    teacher = train_teacher(finest(section, data)[0], Training(section, data, 0, features))
    assert isinstance(teacher, LinearPixels)
    image = torch.randint(0, 256, (1, 1, 4, 4), dtype=torch.uint8)
    weight, bias = teacher.head.weight[0], teacher.head.bias
    assert bias is not None
    expected = (weight @ (image.double().flatten() / 255).float() + bias[0]).softmax(0)
    torch.testing.assert_close(teacher.annotate(image)[0], expected)


def test_checkpoints_that_do_not_fit_are_seen_before_training(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = section_of("network", data, tmp_path)
    specs = finest(section, data)
    trained = train_teacher(specs[0], Training(section, data, 0, features))
    state = {
        name: tensor[:1] if tensor.dim() else tensor for name, tensor in trained.state().items()
    }
    save_tensors(tmp_path / "wrong.safetensors", state)
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("wrong", "text", "absent"):
        path = str(tmp_path / f"{name}.safetensors")
        model = {"name": TINY, "image_size": 32, "checkpoint": path}
        section = teachers_section(hierarchy=BLOCKS, model=model)
        with pytest.raises(UserError, match=re.escape(path)) as caught:
            check_teachers((specs,), Training(section, data, 0, features))
        assert "\n" not in str(caught.value)
