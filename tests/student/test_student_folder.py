"""The folder of a student is found by its path, its run or its name on the hub."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.digit_images import digit_images
from helpers.user_errors import error_of
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import cosup
from cosup.models.backbone import load_backbone
from cosup.models.classifier import build_classifier
from cosup.models.heads import HeadBank
from cosup.models.section import BackboneSection
from cosup.student.folder import identity, read_settings, save_head, save_network

CLASSES = ("a", "b", "c")
RESNET = BackboneSection(name="test_resnet.r160_in1k", weights=None, image_size=32)
CIFAR = BackboneSection(name="cifar_resnet8", weights=None, image_size=16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per form: `timm`, `network` and `head`."""
    root = tmp_path_factory.mktemp("made")
    resnet = build_classifier(RESNET.name, 3, None, 32)
    assert save_network(root / "timm", resnet, RESNET, CLASSES) is None
    save_network(root / "network", build_classifier(CIFAR.name, 3, None, 16), CIFAR, CLASSES)
    backbone = load_backbone(CIFAR)
    head = HeadBank(torch.randn(1, 3, backbone.num_features), bias=torch.zeros(1, 3))
    save_head(root / "head", head, backbone, CIFAR, CLASSES)
    return root


@pytest.fixture(params=["timm", "network", "head"])
def form(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Path:
    """A copy of a folder of each form."""
    return copied(made / request.param, tmp_path)


@pytest.fixture
def in_timm(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder that timm reads."""
    return copied(made / "timm", tmp_path)


def copied(folder: Path, parent: Path) -> Path:
    """Return a copy without a manifest, as somebody else may have written it."""
    copy = Path(shutil.copytree(folder, parent / folder.name))
    (copy / "manifest.jsonl").unlink()
    return copy


def edit(path: Path, **changes: Any) -> None:
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, **changes}))


def test_a_run_or_its_student_is_given(form: Path) -> None:
    expected = cosup.load_student(form, "cpu").predict(digit_images())
    run = form.parent / "run"
    shutil.copytree(form, run / "student")
    assert torch.equal(cosup.load_student(str(run), "cpu").predict(digit_images()), expected)


def test_a_folder_from_before_there_were_formats_is_read(form: Path) -> None:
    expected = cosup.load_student(form, "cpu").predict(digit_images())
    about = json.loads((form / "student.json").read_text())
    assert about.pop("format") == 1
    (form / "student.json").write_text(json.dumps(about))
    assert torch.equal(cosup.load_student(form, "cpu").predict(digit_images()), expected)


def test_a_newer_format_asks_for_a_newer_cosup(form: Path) -> None:
    (form / "student.json").write_text(json.dumps({"format": 2, "all": "else is new"}))
    text = str(error_of(cosup.load_student, form))
    assert "format 2" in text
    assert "up to 1" in text
    assert "upgrade" in text


def spoil_json(folder: Path) -> str:
    (folder / "student.json").write_text("{")
    return "student.json"


def no_classes(folder: Path) -> str:
    about = json.loads((folder / "student.json").read_text())
    del about["classes"]
    (folder / "student.json").write_text(json.dumps(about))
    return "classes"


def list_instead(folder: Path) -> str:
    (folder / "student.json").write_text("[1]")
    return "student.json"


def other_count(folder: Path) -> str:
    edit(folder / "student.json", classes=["a", "b"])
    return "class" if folder.name != "network" else "fit"


def no_weights(folder: Path) -> str:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    return "weights"


def torn_weights(folder: Path) -> str:
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:500])
    return path.name


def other_tensors(folder: Path) -> str:
    (path,) = folder.glob("*.safetensors")
    save_file({"conv.weight": torch.zeros(3, 3)}, path)
    return path.name


def nothing_inside(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder.name


def no_folder(folder: Path) -> str:
    shutil.rmtree(folder)
    return folder.name


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_json,
        no_classes,
        list_instead,
        other_count,
        no_weights,
        torn_weights,
        other_tensors,
        nothing_inside,
        no_folder,
    ],
)
def test_a_bad_folder_is_one_line(form: Path, spoil: Callable[[Path], str]) -> None:
    named = spoil(form)
    text = str(error_of(cosup.load_student, form, "cpu"))
    assert named in text
    assert form.name in text


def test_weights_of_another_network_are_named(in_timm: Path) -> None:
    other = build_classifier("test_vit", 3, None, 64)
    save_file(load_file_of(other), in_timm / "model.safetensors")
    text = str(error_of(cosup.load_student, in_timm, "cpu"))
    assert "model.safetensors" in text
    assert "test_resnet" in text


def load_file_of(network: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.model.state_dict().items()}


@pytest.mark.parametrize(
    "changes",
    [{"architecture": "resnot"}, {"pretrained_cfg": {"who": 1}}, {"model_args": {"depth": "x"}}],
)
def test_a_network_that_timm_does_not_build_is_one_line(
    in_timm: Path, changes: dict[str, Any]
) -> None:
    edit(in_timm / "config.json", **changes)
    assert "config.json" in str(error_of(cosup.load_student, in_timm, "cpu"))


def test_another_backbone_under_a_head_is_an_error(made: Path, tmp_path: Path) -> None:
    folder = copied(made / "head", tmp_path)
    edit(folder / "student.json", weights="another hash")
    assert "cifar_resnet8" in str(error_of(cosup.load_student, folder, "cpu"))


def test_the_identity_changes_with_what_is_predicted(form: Path) -> None:
    before = identity(form, team=False)
    assert identity(form, team=False) == before
    (path,) = form.glob("*.safetensors")
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    assert identity(form, team=False) != before


REVISION = "0123456789abcdef0123456789abcdef01234567"


def put_in_cache(folder: Path, cache: Path) -> None:
    """Lay a folder into the hub's cache as owner/name (its documented layout)."""
    repo = cache / "models--owner--name"
    shutil.copytree(folder, repo / "snapshots" / REVISION)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)
    (repo / "blobs").mkdir()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's client works from an empty cache alone."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def test_a_student_of_the_hub_is_loaded_from_its_cache(form: Path, offline: Path) -> None:
    expected = cosup.load_student(form, "cpu").predict(digit_images())
    put_in_cache(form, offline)
    for name in ("hf-hub:owner/name", "hf-hub:owner/name@main", f"hf-hub:owner/name@{REVISION}"):
        student = cosup.load_student(name, "cpu")
        assert torch.equal(student.predict(digit_images()), expected)
        assert student.classes == CLASSES
    text = str(error_of(cosup.load_student, "hf-hub:owner/name@other", "cpu"))
    assert "hf-hub:owner/name@other" in text


def test_only_what_is_read_is_downloaded(in_timm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repo: str, **settings: Any) -> str:
        asked.update(settings, repo=repo)
        return str(in_timm)

    monkeypatch.setattr("cosup.student.folder.snapshot_download", snapshot)
    cosup.load_student("hf-hub:owner/name@v2", "cpu")
    assert (asked["repo"], asked["revision"]) == ("owner/name", "v2")
    assert not any(p.endswith(("*", ".bin", ".pt", ".py")) for p in asked["allow_patterns"])


@pytest.mark.parametrize("name", ["hf-hub:owner/gone", "hf-hub:", "hf-hub:a/b/c", "hf-hub:a b/c"])
def test_what_the_hub_does_not_have_is_one_line(name: str, offline: Path) -> None:
    assert name in str(error_of(cosup.load_student, name, "cpu"))


def test_a_model_of_others_on_the_hub_is_no_student(in_timm: Path, offline: Path) -> None:
    (in_timm / "student.json").unlink()
    put_in_cache(in_timm, offline)
    assert "student.json" in str(error_of(cosup.load_student, "hf-hub:owner/name", "cpu"))


def test_settings_come_back(in_timm: Path) -> None:
    settings = read_settings(in_timm)
    assert (settings.classes, settings.backbone, settings.meta) == (CLASSES, RESNET, False)
    error_of(read_settings, in_timm.parent)
