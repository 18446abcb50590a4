"""A student's folder that anybody may have written: nothing in it runs, and it is one line."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.digit_images import digit_images
from helpers.user_errors import error_of
from safetensors.torch import load_file, save_file

import cosup
from cosup.cli import call
from cosup.models.backbone import load_backbone
from cosup.models.classifier import build_classifier
from cosup.models.heads import HeadBank
from cosup.models.section import BackboneSection
from cosup.student.folder import save_head, save_network

CLASSES = ("a", "b", "c", "d", "e", "f", "g", "h")
VIT = BackboneSection(name="test_vit.r160_in1k", weights=None, image_size=64)
CIFAR = BackboneSection(name="cifar_resnet8", weights=None, image_size=16)
TRAP = """
from pathlib import Path

Path(__file__).with_name("sprung").touch()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of timm's (`timm`), and one of a head on a backbone (`head`)."""
    root = tmp_path_factory.mktemp("made")
    save_network(root / "timm", build_classifier(VIT.name, 8, None, 64), VIT, CLASSES)
    backbone = load_backbone(CIFAR)
    head = HeadBank(torch.randn(1, 8, backbone.num_features), bias=torch.zeros(1, 8))
    save_head(root / "head", head, backbone, CIFAR, CLASSES)
    for folder in ("timm", "head"):
        (root / folder / "manifest.jsonl").unlink()
        cosup.load_student(root / folder, "cpu").predict(digit_images()[:1])  # they are whole
    return root


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that is there once the module `trap_of_student` was imported."""
    (tmp_path / "trap_of_student.py").write_text(TRAP)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "sprung"


def edit(folder: Path, name: str, **changes: Any) -> None:
    about = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**about, **changes}))


def set_backbone(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        about = json.loads((folder / "student.json").read_text())["backbone"]
        edit(folder, "student.json", backbone={**about, **changes})

    return spoil


def set_about(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "student.json", **changes)


def set_timm(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", **changes)


def set_input(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        about = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
        edit(folder, "config.json", pretrained_cfg={**about, **changes})

    return spoil


def set_tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (path,) = folder.glob("*.safetensors")
        state = load_file(path)
        save_file({**state, name: change(state[name])}, path)

    return spoil


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def not_a_number(tensor: torch.Tensor) -> torch.Tensor:
    tensor.flatten()[-1] = torch.nan
    return tensor


def pickled(folder: Path) -> None:
    state = dict(load_backbone(CIFAR).model.state_dict())
    torch.save(state, folder / "weights.pt")
    set_backbone(weights=str(folder / "weights.pt"))(folder)


DEEP = b'{"classes": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
TIMM: dict[str, Callable[[Path], None]] = {
    "nested too deep": write("student.json", DEEP),
    "nested too deep, of timm": write("config.json", DEEP),
    "not UTF-8": write("student.json", b'{"classes": "\xff\xfe"}'),
    "one name for eight columns": set_about(classes="abcdefgh"),
    "a class twice": set_about(classes=["a", *"abcdefg"]),
    "classes that are lists": set_about(classes=[[name] for name in CLASSES]),
    "a class without a name": set_about(classes=["", *"bcdefgh"]),
    "no backbone": set_about(backbone=None),
    "a format that is text": set_about(format="newest"),
    "other classes in timm's description": set_timm(label_names=[*"abcdefgx"]),
    "an architecture that is a path": set_timm(architecture="../../elsewhere"),
    "an architecture that is a place": set_timm(architecture="hf-hub:owner/name"),
    "another architecture": set_timm(architecture="test_resnet"),
    "a far larger architecture": set_timm(architecture="vit_giant_patch14_224", model_args={}),
    "a million layers": set_timm(model_args={"depth": 1_000_000}),
    "layers beyond a float": set_timm(model_args={"embed_dim": 10**400}),
    "arguments that are a list": set_timm(model_args=["depth"]),
    "more classes than columns": set_timm(num_classes=10**12),
    "no classifier": set_timm(model_args={"global_pool": "", "class_token": False}),
    "input images of a million pixels a side": set_input(input_size=[3, 10**6, 10**6]),
    "a mean that is no number": set_input(mean=[float("nan"), 0.5, 0.5]),
    "a standard deviation of 0": set_input(std=[0, 0, 0]),
    "an unknown interpolation": set_input(interpolation="telepathy"),
    "a weight that is no number": set_tensor("norm.weight", not_a_number),
    "a weight of another shape": set_tensor("norm.weight", lambda t: t[:-1].clone()),
}
HEAD: dict[str, Callable[[Path], None]] = {
    "a module as weights": set_backbone(weights="package:trap_of_student"),
    "a pickle as weights": pickled,
    "a backbone that is a path": set_backbone(name="../../elsewhere"),
    "a backbone beyond any size": set_backbone(image_size=10**30),
    "an unknown setting": set_backbone(script="run me"),
    "a head that is no number": set_tensor("weight", not_a_number),
    "a head of two": set_tensor("weight", lambda t: t.repeat(2, 1, 1)),
    "a head without its columns": set_tensor("weight", lambda t: t[:, :1].clone()),
    "a head of other features": set_tensor("weight", lambda t: t[..., :-1].clone()),
    "a bias of one number": set_tensor("bias", lambda t: t[:, :1].clone()),
    "a head that is a number": set_tensor("weight", lambda t: torch.tensor(1.0)),
    "a header that promises too much": write("head.safetensors", b"\xff" * 7 + b"\x7f{}"),
}
CASES = {
    **{f"timm: {name}": spoil for name, spoil in TIMM.items()},
    **{f"head: {name}": spoil for name, spoil in HEAD.items()},
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_folder_is_one_line(case: str, made: Path, tmp_path: Path, trap: Path) -> None:
    folder = Path(shutil.copytree(made / case.partition(":")[0], tmp_path / "student"))
    CASES[case](folder)
    assert str(folder) in str(error_of(cosup.load_student, folder, "cpu"))
    assert not trap.exists()


def test_the_command_line_says_one_line_too(
    made: Path, tmp_path: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(made / "head", tmp_path / "student"))
    HEAD["a module as weights"](folder)
    digit_images()[0].save(tmp_path / "one.png")
    arguments = ["predict", str(folder), str(tmp_path / "one.png")]
    assert call(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--package trap_of_student" in line
    assert not trap.exists()
    assert call([*arguments, "--package", "trap_of_student"]) == 2
    assert trap.exists(), "a package that is asked for is imported"
    assert "ModelFile" in capsys.readouterr().err


def test_a_pickle_beside_the_weights_is_not_opened(made: Path, tmp_path: Path, trap: Path) -> None:
    """Whatever its name, where another file of the student is looked for."""
    folder = Path(shutil.copytree(made / "timm", tmp_path / "student"))
    bomb = pickle.dumps(Trap())
    for name in ("pytorch_model.bin", "model.pth", "open_clip_pytorch_model.bin", "head.pt"):
        (folder / name).write_bytes(bomb)
    cosup.load_student(folder, "cpu").predict(digit_images()[:1])
    for name in ("model.safetensors", "student.json", "config.json"):
        (folder / name).write_bytes(bomb)
        error_of(cosup.load_student, folder, "cpu")
    assert not trap.exists()


class Trap:
    """Imports the trap when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("trap_of_student",)
