"""Features of a run: those that it would extract itself, whatever other runs left in the cache."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cosup.data.table import ImageData
from cosup.models import features as cache_module
from cosup.models.section import BackboneSection
from cosup.teachers.features import FeatureCache, RemoteExtraction

SECTION = BackboneSection(name="test_resnet", weights=None, image_size=32)


@pytest.fixture(scope="module")
def few(data: ImageData) -> ImageData:
    return data.subset(np.arange(0, len(data), 15))


def of_test(cache: FeatureCache, data: ImageData) -> Tensor:
    return cache.source(SECTION).of_split(data, "test")


def folders(cache: FeatureCache) -> list[Path]:
    assert cache.compute.cache is not None
    return sorted((cache.compute.cache / "features").iterdir())


def with_batch(cache: FeatureCache, size: int) -> FeatureCache:
    return FeatureCache(replace(cache.compute, batch_size=size))


def test_a_run_after_one_with_another_batch_size_has_its_own_features(
    few: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    """A batch of one image uses other kernels than a larger one (measured on a CPU)."""
    alone = FeatureCache(replace(features.compute, batch_size=1, cache=tmp_path / "alone"))
    of_test(features, few)
    assert torch.equal(of_test(with_batch(features, 1), few), of_test(alone, few))
    assert len(folders(features)) == 2


def test_runs_with_larger_batches_share_features(few: ImageData, features: FeatureCache) -> None:
    found = of_test(features, few)
    assert torch.equal(of_test(with_batch(features, 500), few), found)
    assert len(folders(features)) == 1


def test_a_plan_knows_the_key_before_the_run(few: ImageData, features: FeatureCache) -> None:
    of_test(features, few)
    plan = FeatureCache(replace(features.compute), device=torch.device("cpu"))
    assert [plan.cache_key(plan.describe(SECTION), few, "test")] == [
        folder.name for folder in folders(features)
    ]


def test_features_made_otherwise_are_used_and_told_once(
    few: ImageData,
    features: FeatureCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    found = of_test(features, few)
    assert "otherwise" not in caplog.text
    monkeypatch.setattr(cache_module, "_told", set())
    monkeypatch.setattr(torch, "__version__", "99.9")
    later = FeatureCache(features.compute)
    for split in ("test", "student_train"):
        later.source(SECTION).of_split(few, split)
    assert torch.equal(of_test(later, few), found)
    assert len([line for line in caplog.messages if "99.9" in line]) == 1


def test_other_processes_extract_the_features_of_their_samples_alone(
    few: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    asked: list[tuple[str, int]] = []
    local = of_test(FeatureCache(replace(features.compute, cache=tmp_path / "local")), few)

    def blocks(section: BackboneSection, split: str, start: int) -> Iterator[Tensor]:
        asked.append((split, start))
        part, _ = few.part(split)
        yield torch.zeros(len(part), 96, dtype=torch.float16)

    other = few.subset(np.arange(len(few)))
    shifted = replace(few.subset(few.rows("test")[:3]), drawn=False)
    few = replace(few, shifted={"noisy": shifted})
    remote = RemoteExtraction(few, torch.device("cuda"), 1, blocks)
    assert of_test(FeatureCache(features.compute, remote), few).abs().sum() == 0
    assert of_test(FeatureCache(features.compute, remote), shifted).abs().sum() == 0
    assert asked == [("test", 0), ("shifted-noisy", 0)]
    assert torch.equal(of_test(FeatureCache(features.compute, remote), other), local)
    assert len(asked) == 2
    assert len(folders(features)) == 3  # those of a GPU, twice, and those of this CPU
