"""Teachers are trained on given labels only, including wrong ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from teacher_helpers import finest, teachers_section

from cosup.data.table import ImageData
from cosup.teachers.base import Training, training_rows
from cosup.teachers.features import FeatureCache, FeatureSource
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import labels_as_targets
from cosup.teachers.train import train_level

BLOCKS = {"by": "class", "levels": [2]}


def with_shifted_labels(data: ImageData) -> ImageData:
    """Return the data with each given label replaced by the next class."""
    return replace(data, table=data.table.assign(given=(data.table["label"] + 1) % 10))


def test_scopes_and_targets_use_the_given_labels(data: ImageData) -> None:
    other, rows = with_shifted_labels(data), data.rows("teacher_train")
    true = data.table["label"].to_numpy()
    low = training_rows(TeacherSpec("low", 0, classes=(0, 1, 2)), other)
    assert low.tolist() == rows[np.isin(true[rows], [9, 0, 1])].tolist()
    targets = labels_as_targets(other, rows).dense()
    assert targets.argmax(1).tolist() == ((true[rows] + 1) % 10).tolist()
    assert other.split_fingerprint("teacher_train") != data.split_fingerprint("teacher_train")


def test_a_level_is_trained_on_the_given_labels(data: ImageData, features: FeatureCache) -> None:
    section = teachers_section(hierarchy={"by": "class", "levels": [1]})
    other = with_shifted_labels(data)
    (teacher,) = train_level(finest(section, data), Training(section, other, 0, features))
    rows = data.rows("teacher_train")
    probs = torch.cat([teacher.annotate(b) for b in teacher.inputs(other, rows, features.compute)])
    right = (probs.argmax(1) == other.given(rows)).float().mean()
    assert right > 0.4
    assert right > (probs.argmax(1) == other.truth(rows).labels).float().mean() + 0.2


@pytest.mark.parametrize("drawn", [False, True])
def test_shared_samples_reach_teachers_through_the_feature_cache(
    data: ImageData, features: FeatureCache, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that teachers train on are found in the split that they belong to."""
    shared = replace(data, share_train=True, drawn=drawn)
    section = teachers_section(
        hierarchy=BLOCKS,
        model={
            "name": "linear_features",
            "backbone": {"name": "test_resnet.r160_in1k", "weights": None, "image_size": 32},
        },
    )
    asked = []
    found = FeatureSource.of_split

    def spy(source: FeatureSource, data: ImageData, split: str, *rest: object) -> torch.Tensor:
        asked.append(split)
        return found(source, data, split, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(FeatureSource, "of_split", spy)
    specs = finest(section, shared)
    teachers = train_level(specs, Training(section, shared, 0, features))
    rows = shared.rows("student_train")
    for teacher in teachers:
        probs = torch.cat(
            [teacher.annotate(b) for b in teacher.inputs(shared, rows, features.compute)]
        )
        assert probs.shape == (len(rows), 10)
    assert set(asked) == {"teacher_train", "student_train"}
    # Both splits use one set of features.
    assert len(features.opened) == 1
