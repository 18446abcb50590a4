"""Fixtures: real digits, and a feature cache on the CPU."""

from pathlib import Path

import pytest
import torch

from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.teachers.features import FeatureCache


@pytest.fixture(scope="session")
def data() -> ImageData:
    """Rotated digits: 4 domains, 10 classes, 1,200 samples."""
    section = DataSection.model_validate(
        {
            "source": "digits",
            "limit": 1200,
            "splits": {
                "teacher_train": 0.4,
                "student_train": 0.4,
                "validation": 0.05,
                "test": 0.15,
            },
        }
    )
    return load_data(section, seed=0, workers=1, cache=None)


@pytest.fixture
def features(tmp_path: Path) -> FeatureCache:
    return FeatureCache(Compute(torch.device("cpu"), "float32", 1, 64, tmp_path / "cache"))
