"""Teachers are calibrated by labels that they were not trained on, and annotate at their
temperature wherever they are restored."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.user_errors import error_of, key_of, mistakes_of, section_error_of
from scipy.optimize import minimize_scalar
from teacher_helpers import finest, section_of, teachers_section

from cosup.config.needs import wants_teacher_train
from cosup.config.rounds import RoundsSection
from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.teachers.annotate import annotate, annotate_by_name, open_store
from cosup.teachers.base import Training, training_rows
from cosup.teachers.calibration import fit_temperature
from cosup.teachers.features import FeatureCache
from cosup.teachers.live import LiveTeachers
from cosup.teachers.rows import calibration_rows
from cosup.teachers.train import (
    check_teachers,
    obtain_level,
    planned_steps,
    restored,
    stored_teacher,
    train_level,
)


@pytest.fixture
def unvalidated(data: ImageData) -> ImageData:
    """The digits without a validation split."""
    table = data.table[data.table["split"] != "validation"]
    return replace(data, table=table.reset_index(drop=True))


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5, 9.0])
def test_temperature_is_the_minimum_of_the_cross_entropy(true: float) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(4000, 6)) * 3
    labels = (logits / true + draw.gumbel(size=logits.shape)).argmax(1)
    probs = torch.from_numpy(logits).softmax(1)

    def cross_entropy(log_temperature: float) -> float:
        scaled = np.log(probs.numpy()) / math.exp(log_temperature)
        total = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]
        return float(total.mean())

    best = minimize_scalar(
        cross_entropy, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10}
    )
    found = fit_temperature(probs.float(), torch.from_numpy(labels))
    assert found == pytest.approx(math.exp(best.x), rel=1e-4)
    assert found == pytest.approx(true, rel=0.1)


def test_temperature_of_a_teacher_without_errors_is_bounded() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(probs, torch.tensor([0, 1])) == pytest.approx(0.05)
    assert fit_temperature(probs, torch.tensor([1, 0])) == pytest.approx(20.0)
    abstaining = torch.cat([probs, torch.zeros(1, 2)])
    mixed = torch.tensor([0, 0])
    with_abstention = fit_temperature(abstaining, torch.tensor([0, 0, 1]))
    assert with_abstention == fit_temperature(probs, mixed)
    assert fit_temperature(torch.zeros(2, 2), mixed) == 1.0
    assert fit_temperature(torch.eye(2), mixed) == 1.0


def test_a_teacher_never_trains_on_what_calibrates_it(unvalidated: ImageData) -> None:
    section = teachers_section(calibrate="temperature", calibration_share=0.3)
    for spec in finest(section, unvalidated):
        train, held = training_rows(spec, unvalidated), calibration_rows(spec, unvalidated)
        plain = finest(teachers_section(), unvalidated)
        whole = training_rows(next(p for p in plain if p.name == spec.name), unvalidated)
        assert sorted([*train, *held]) == whole.tolist()
        groups = unvalidated.groups
        assert not set(groups(np.concatenate([train, held]))[: len(train)]) & set(
            groups(np.concatenate([train, held]))[len(train) :]
        )
        assert len(held) / len(whole) == pytest.approx(0.3, abs=0.06)
        assert planned_steps(spec, unvalidated) > 0


def test_labels_of_validation_are_used_where_there_are_any(data: ImageData) -> None:
    section = teachers_section(hierarchy={"by": "domain", "levels": [1]}, calibrate="temperature")
    (spec,) = finest(section, data)
    assert calibration_rows(spec, data).tolist() == data.rows("validation").tolist()
    assert training_rows(spec, data).tolist() == data.rows("teacher_train").tolist()


@pytest.mark.parametrize("kind", ["linear_pixels", "network", "call", "pretrained"])
def test_calibrated_teachers_annotate_at_their_temperature_wherever_they_are(
    kind: str, unvalidated: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    data = unvalidated
    plain = section_of(kind, data, tmp_path)
    section = plain.model_copy(update={"calibrate": "temperature"})
    training = Training(section, data, 0, features, directory=tmp_path / "teachers")
    specs = finest(section, data)
    teachers = obtain_level(specs, training)
    loaded = obtain_level(specs, training)
    rows = data.rows("test")
    found = annotate_by_name(teachers, data, rows, features.compute)
    for spec, teacher, other in zip(specs, teachers, loaded, strict=True):
        held = calibration_rows(spec, data)
        batches = teacher.inputs(data, held, features.compute)
        probs = torch.cat([teacher.annotate(batch) for batch in batches])
        support = teacher.support
        places = (support.cumsum(0) - 1)[data.given(held)]
        assert teacher.temperature == fit_temperature(probs[:, support], places)
        assert other.temperature == teacher.temperature
        assert other.identity == teacher.identity
        elsewhere = [
            restored(spec, training, teacher.tensors(), teacher.steps),
            stored_teacher(spec.name, training),
        ]
        for one in elsewhere:
            assert one.temperature == teacher.temperature
            table = annotate_by_name([one], data, rows, features.compute)[spec.name]
            assert torch.equal(table.dense(), found[spec.name].dense())
        raw = torch.cat([teacher.annotate(b) for b in teacher.inputs(data, rows, features.compute)])
        expected = (raw.double().log() / teacher.temperature).softmax(1).nan_to_num()
        torch.testing.assert_close(
            found[spec.name].dense().double(), expected, atol=2e-3, rtol=2e-3
        )


def test_annotations_of_another_temperature_are_stale(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = section_of("pretrained", data, tmp_path)
    plain = train_level(finest(section, data), Training(section, data, 0, features))
    store = open_store(tmp_path / "store", data, 4096)
    annotate(plain, data, store, features.compute)
    assert not store.missing("test", plain[0])
    section = section.model_copy(update={"calibrate": "temperature"})
    tempered = train_level(finest(section, data), Training(section, data, 0, features))
    assert tempered[0].identity != plain[0].identity
    assert store.missing("test", tempered[0])
    annotate(tempered, data, store, features.compute)
    assert not store.missing("test", tempered[0])
    assert store.missing("test", plain[0])


def test_live_teachers_answer_at_their_temperature(
    data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    section = section_of("pretrained", data, tmp_path)
    teachers = train_level(finest(section, data), Training(section, data, 0, features))
    pixels = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    number = torch.zeros(6, dtype=torch.int64)
    compute = Compute(torch.device("cpu"), "float32", 1, 64)
    before = LiveTeachers(teachers, compute)(pixels, number).logits
    teachers[0].temperature = 3.0
    after = LiveTeachers(teachers, compute)(pixels, number).logits
    inside = teachers[0].support
    expected = (before[:, inside].double() / 3).log_softmax(1)
    torch.testing.assert_close(after[:, inside].double(), expected, atol=1e-5, rtol=1e-5)


def test_too_few_held_out_labels_are_refused_before_training(
    unvalidated: ImageData, features: FeatureCache
) -> None:
    section = teachers_section(calibrate="temperature", calibration_share=0.01)
    specs = finest(section, unvalidated)
    error = mistakes_of(check_teachers, (specs,), Training(section, unvalidated, 0, features))[0]
    assert key_of(error) == "teachers.calibrate"
    assert error.where == f"teacher '{specs[0].name}'"
    assert error_of(calibration_rows, specs[0], unvalidated).value == "temperature"


def test_tables_alone_cannot_be_calibrated(data: ImageData, tmp_path: Path) -> None:
    tables = section_of("table", data, tmp_path).model_dump(mode="json")
    error = section_error_of(TeachersSection.model_validate, {**tables, "calibrate": "temperature"})
    assert key_of(error) == "calibrate"


def test_calibration_needs_teacher_train_of_teachers_that_are_used_as_they_are(
    data: ImageData, tmp_path: Path
) -> None:
    section = section_of("pretrained", data, tmp_path)
    rounds = RoundsSection()
    assert not wants_teacher_train(section, rounds)
    assert wants_teacher_train(section.model_copy(update={"calibrate": "temperature"}), rounds)
