"""Teachers are trained on the rows and classes of their scope, within their budget."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.user_errors import error_of
from teacher_helpers import BLOCKS, TINY, annotations, finest, section_of, teachers_section

import cosup.data.loader as loader
from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.errors import RunError, UserError
from cosup.files import save_tensors
from cosup.teachers import features as teacher_features
from cosup.teachers.base import (
    ScopedCrossEntropy,
    Training,
    training_rows,
)
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import LinearPixels
from cosup.teachers.train import (
    check_teachers,
    train_level,
    train_teacher,
)


def test_specialists_are_best_on_their_domain(data: ImageData, features: FeatureCache) -> None:
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


@pytest.mark.parametrize("kind", ["linear_pixels", "linear_features"])
def test_linear_teachers_start_as_the_model_says(
    kind: str, data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    """After a step of a rate near 0 a teacher is where it started."""
    plain = section_of(kind, data, tmp_path)
    spread = {}
    for start in ("zero", "random", "normal"):
        model = plain.model.model_copy(update={"start": start})
        training = plain.training.model_copy(update={"steps": 1, "lr": 1e-12})
        section = plain.model_copy(update={"model": model, "training": training})
        specs = finest(section, data)
        for teacher in train_level(specs, Training(section, data, 0, features)):
            spread[start] = float(teacher.state()["weight"].std())
    width = teacher.state()["weight"].shape[-1]
    assert spread["zero"] < 1e-9
    assert spread["normal"] == pytest.approx(0.01, rel=0.2)
    assert spread["random"] == pytest.approx((3 * width) ** -0.5, rel=0.2)


@pytest.mark.parametrize("kind", ["linear_pixels", "linear_features", "network"])
def test_a_softmax_over_all_classes_learns_that_the_others_are_absent(
    kind: str, data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    """As published, a specialist annotates with the part of it that is in its scope."""
    plain = section_of(kind, data, tmp_path)
    moved, said = {}, {}
    for softmax in ("scope", "all"):
        model = plain.model.model_copy(update={"softmax": softmax})
        section = plain.model_copy(update={"model": model})
        specs = [spec for spec in finest(section, data) if spec.classes is not None]
        assert specs
        teacher = train_level(specs, Training(section, data, 0, features))[0]
        own, (name, bias) = teacher.support, list(teacher.state().items())[-1]
        assert "bias" in name
        moved[softmax] = float(bias.reshape(-1, len(own))[0, ~own].abs().max())
        batch = next(teacher.inputs(data, data.rows("test")[:32], features.compute))
        said[softmax] = teacher.annotate(batch)
        torch.testing.assert_close(said[softmax].sum(1), torch.ones(len(batch)))
        assert (said[softmax][:, ~own] == 0).all()
    assert moved["all"] > 1e-3
    assert not torch.equal(said["all"], said["scope"])


@pytest.mark.parametrize("kind", ["linear_pixels", "network"])
def test_only_labels_of_the_scope_in_teacher_train_are_used(
    kind: str, data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = section_of(kind, data, tmp_path)
    specs = finest(section, data)
    own = data.table["split"].eq("teacher_train") & data.table["label"].isin(range(5))
    unknown = data.table["split"].eq("student_train")
    swapped = data.table["label"].where(own, (data.table["label"] - 4) % 5 + 5)
    labels = swapped.where(~unknown, -1)
    other = replace(data, table=data.table.assign(label=labels, given=labels))
    with_labels = train_level(specs, Training(section, data, 0, features))[0]
    with_other_labels = train_level(specs, Training(section, other, 0, features))[0]
    assert with_labels.identity == with_other_labels.identity


def test_training_rows_are_those_of_the_scope(data: ImageData) -> None:
    spec = TeacherSpec("x", 0, classes=(1, 4), domains=(2,))
    table = data.table
    expected = table.query("split == 'teacher_train' and label in [1, 4] and domain == 2").index
    assert training_rows(spec, data).tolist() == expected.tolist()
    assert training_rows(TeacherSpec("all", 0), data).tolist() == (
        data.rows("teacher_train").tolist()
    )
    without_samples = replace(data, table=table[table["label"] != 1].reset_index(drop=True))
    error = error_of(training_rows, replace(spec, classes=(1,)), without_samples)
    assert error.where == "teacher 'x'"
    assert "teacher_train" in str(error)


def test_a_class_may_lack_where_no_scope_needs_it(data: ImageData) -> None:
    table = data.table
    untaught = (table["label"] == 1) & (table["split"] == "teacher_train")
    lacking = replace(data, table=table[~untaught].reset_index(drop=True))
    assert len(training_rows(TeacherSpec("x", 0, classes=(0, 4)), lacking))
    for spec in (TeacherSpec("all", 0), TeacherSpec("x", 0, classes=(1, 4))):
        error = error_of(training_rows, spec, lacking)
        assert (error.key, error.where) == (("data", "splits"), f"teacher '{spec.name}'")
        assert "'1'" in error.problem
        in_test = ((table["label"] == 1) & (table["split"] == "test")).sum()
        assert f"{in_test} in test" in error.problem


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


def test_scoped_loss_is_cross_entropy_over_the_classes_of_the_scope() -> None:
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


def test_teachers_share_one_feature_extraction(
    data: ImageData, features: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counting(part: ImageData, rows: Any, *rest: Any, **named: Any) -> Any:
        decoded.extend(rows.tolist())
        return image_batches(part, rows, *rest, **named)

    monkeypatch.setattr(teacher_features, "image_batches", counting)
    section = section_of("linear_features", data, tmp_path)
    specs = finest(section, data)
    for teacher in train_level(specs, Training(section, data, 0, features)):
        annotations(teacher, data, features.compute)
    assert decoded == list(range(len(data)))


def test_networks_are_equal_from_memory_and_from_files(
    data: ImageData, features: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = section_of("network", data, tmp_path)
    spec = finest(section, data)[0]
    whole = train_teacher(spec, Training(section, data, 0, features))
    monkeypatch.setattr(loader, "MEMORY", 0)
    assert train_teacher(spec, Training(section, data, 0, features)).identity == whole.identity
    assert whole.steps == 3


def test_checkpoints_are_loaded_unchanged(
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
    specs = finest(section, data)
    check_teachers((specs,), Training(section, data, 5, features))
    loaded = train_level(specs, Training(section, data, 5, features))
    assert [t.identity for t in loaded] == [t.identity for t in trained]
    assert [t.steps for t in loaded] == [0, 0]


def test_an_infinite_loss_names_teacher_and_step(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    training = {"steps": 20, "lr": 1e30, "batch_size": 16}
    model = {"name": TINY, "image_size": 32}
    section = teachers_section(hierarchy=BLOCKS, model=model, training=training)
    spec = finest(section, data)[0]
    with pytest.raises(RunError, match=r"'classes_0-4'.*not finite at step \d+ of 20"):
        train_teacher(spec, Training(section, data, 0, features))


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


def test_linear_pixels_match_a_direct_computation(data: ImageData, features: FeatureCache) -> None:
    section = teachers_section(model={"name": "linear_pixels", "size": 4})
    teacher = train_teacher(finest(section, data)[0], Training(section, data, 0, features))
    assert isinstance(teacher, LinearPixels)
    image = torch.randint(0, 256, (1, 1, 4, 4), dtype=torch.uint8)
    weight, bias = teacher.head.weight[0], teacher.head.bias
    assert bias is not None
    expected = (weight @ (image.double().flatten() / 255).float() + bias[0]).softmax(0)
    torch.testing.assert_close(teacher.annotate(image)[0], expected)


def test_wrong_checkpoints_are_found_before_training(
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
            check_teachers((finest(section, data),), Training(section, data, 0, features))
        assert "\n" not in str(caught.value)
