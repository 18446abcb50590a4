"""The files of an exported student are recorded, and what is damaged is not used."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.digit_images import digit_images
from safetensors.torch import load_file

import cosup
from cosup.errors import RunError
from cosup.files import save_tensors
from cosup.manifest import Manifest, State
from cosup.models.backbone import load_backbone
from cosup.models.classifier import build_classifier
from cosup.models.heads import HeadBank
from cosup.models.section import BackboneSection
from cosup.student.folder import save_head, save_network

CLASSES = ("a", "b", "c")
CIFAR = BackboneSection(name="cifar_resnet8", weights=None, image_size=16)
RESNET = BackboneSection(name="test_resnet.r160_in1k", weights=None, image_size=32)


@pytest.fixture(params=["timm", "head"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "timm":
        network = build_classifier(RESNET.name, 3, None, 32)
        save_network(tmp_path / "student", network, RESNET, CLASSES)
    else:
        save_prototypes(tmp_path / "student", CIFAR)
    return tmp_path / "student"


def save_prototypes(folder: Path, section: BackboneSection) -> None:
    backbone = load_backbone(section)
    weight = torch.randn(1, 3, backbone.num_features, generator=torch.Generator().manual_seed(0))
    save_head(folder, HeadBank(weight, log_scale=torch.ones(1)), backbone, section, CLASSES)


def test_all_files_are_recorded(folder: Path) -> None:
    states = Manifest(folder).states()
    assert set(states.values()) == {State.WHOLE}
    written = {path.name for path in folder.iterdir()} - {"manifest.jsonl"}
    assert set(states) == written


def test_one_flipped_bit_is_not_used_and_the_file_is_named(folder: Path) -> None:
    """The number changes, and no reader would notice."""
    cosup.load_student(folder, "cpu").predict(digit_images())
    for path in sorted(folder.iterdir()):
        if path.name == "manifest.jsonl":
            continue
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(RunError) as caught:
            cosup.load_student(folder, "cpu")
        assert str(path) in str(caught.value)
        assert "cosup verify" in str(caught.value)
        path.write_bytes(whole)
    cosup.load_student(folder, "cpu").predict(digit_images())


def test_a_folder_without_a_manifest_is_read(folder: Path) -> None:
    """Those of an earlier cosup have none."""
    expected = cosup.load_student(folder, "cpu").predict(digit_images())
    (folder / "manifest.jsonl").unlink()
    assert torch.equal(cosup.load_student(folder, "cpu").predict(digit_images()), expected)


def test_an_export_over_another_forgets_what_is_gone(tmp_path: Path) -> None:
    save_network(tmp_path, build_classifier(RESNET.name, 3, None, 32), RESNET, CLASSES)
    save_prototypes(tmp_path, CIFAR)
    assert set(Manifest(tmp_path).states().values()) == {State.WHOLE}
    cosup.load_student(tmp_path, "cpu")


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_backbone_from_a_file_travels_with_the_student(tmp_path: Path, ending: str) -> None:
    """Nobody else has the file, and a pickle would not be read."""
    state = load_backbone(CIFAR).model.state_dict()
    path = tmp_path / f"own{ending}"
    save_tensors(path, state) if ending == ".safetensors" else torch.save(state, path)
    save_prototypes(tmp_path / "student", CIFAR.model_copy(update={"weights": str(path)}))
    expected = cosup.load_student(tmp_path / "student", "cpu").predict(digit_images())
    path.unlink()
    moved = Path(shutil.move(tmp_path / "student", tmp_path / "moved"))
    assert torch.equal(cosup.load_student(moved, "cpu").predict(digit_images()), expected)
    assert load_file(moved / "backbone.safetensors").keys() == state.keys()
