"""What a backbone is, is remembered for plans, until anything of it changes."""

import os
from pathlib import Path

import pytest
import torch

from cosup.models.backbone import load_backbone
from cosup.models.compute import Compute
from cosup.models.described import remembered
from cosup.models.section import BackboneSection
from cosup.teachers import features
from cosup.teachers.features import FeatureCache


@pytest.fixture(name="weights")
def _weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights; what is remembered is kept beside it."""
    monkeypatch.setenv("COSUP_CACHE", str(tmp_path / "cache"))
    backbone = load_backbone(BackboneSection(name="test_resnet", weights=None, image_size=32))
    torch.save(backbone.model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def section(weights: object, **settings: object) -> BackboneSection:
    given = {"name": "test_resnet", "image_size": 32, "weights": str(weights), **settings}
    return BackboneSection.model_validate(given)


def test_a_backbone_is_loaded_once_for_all_plans(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = FeatureCache(Compute()).describe(section(weights))
    loaded = load_backbone(section(weights))
    assert (found.identity, found.num_features) == (loaded.identity, loaded.num_features)
    assert (found.name, found.input) == (loaded.name, loaded.input)
    monkeypatch.setattr(features, "load_backbone", None)
    assert FeatureCache(Compute()).describe(section(weights)) == found


def test_it_is_loaded_again_when_anything_changed(weights: Path) -> None:
    FeatureCache(Compute()).describe(section(weights))
    assert remembered(section(weights), "float32") is not None
    assert remembered(section(weights), "bfloat16") is None
    assert remembered(section(weights, image_size=40), "float32") is None
    os.utime(weights, ns=(1, 1))
    assert remembered(section(weights), "float32") is None


def test_damage_and_a_folder_that_cannot_be_written_only_cost_time(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = FeatureCache(Compute()).describe(section(weights))
    (file,) = (tmp_path / "cache" / "backbones").glob("*.json")
    file.write_bytes(b'{"name": "other"}')
    assert FeatureCache(Compute()).describe(section(weights)) == found
    assert remembered(section(weights), "float32") == found
    monkeypatch.setenv("COSUP_CACHE", "/proc/none")
    assert FeatureCache(Compute()).describe(section(weights)) == found


def test_weights_of_a_hub_are_never_remembered(weights: Path) -> None:
    """They change elsewhere, and which were downloaded is seen when they are loaded."""
    assert remembered(section("pretrained"), "float32") is None
    assert remembered(section("pretrained", name="hf-hub:owner/name"), "float32") is None
