"""`cosup export student`: files for other runtimes predict the same, and a push asks first."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from helpers.digit_images import digit_images
from helpers.tiny_clip import write_clip
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from timm.data import create_transform
from timm.data.config import resolve_model_data_config
from torch import Tensor

import cosup
from cosup.cli import call
from cosup.config.load import load_config
from cosup.data.load import load_data
from cosup.layout import Layout
from cosup.models.backbone import load_backbone
from cosup.models.heads import HeadBank
from cosup.models.section import BackboneSection
from cosup.runs import export_student
from cosup.runs.card import card
from cosup.student.folder import save_head


def normalised(run: Path) -> Tensor:
    """Return the images as the exported network reads them, prepared by plain timm."""
    model: Any = timm.create_model(f"local-dir:{run / 'student'}", pretrained=True)
    prepare: Any = create_transform(**resolve_model_data_config(model))
    return torch.stack([prepare(image.convert("RGB")) for image in digit_images()])


def by_onnx(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    assert isinstance(found, np.ndarray)
    return torch.from_numpy(found)


def by_torch(path: Path, images: Tensor) -> Tensor:
    return torch.as_tensor(torch.export.load(path).module()(images))


READ = {"onnx": (".onnx", by_onnx), "torch_export": (".pt2", by_torch)}


@pytest.mark.parametrize("form", READ)
def test_an_exported_file_predicts_what_the_student_predicts(
    form: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of any number of images; it lies beside the folder unless it is named."""
    ending, read = READ[form]
    assert call(["export", "student", str(world), "--format", form]) == 0
    assert f"student{ending}" in capsys.readouterr().out
    expected = cosup.load_student(world, "cpu").predict(digit_images())
    images = normalised(world)
    found = read(world / f"student{ending}", images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    one = read(world / f"student{ending}", images[:1])
    torch.testing.assert_close(one, expected[:1], atol=1e-5, rtol=0)
    assert expected.argmax(1).unique().numel() > 1
    assert not list(world.glob(".student*"))
    if form == "onnx":
        check_description(world / "student.onnx", world)


def check_description(path: Path, run: Path) -> None:
    """Check what the ONNX file says that it reads and returns."""
    session = onnxruntime.InferenceSession(path)
    about = session.get_modelmeta().custom_metadata_map
    student = cosup.load_student(run, "cpu")
    assert tuple(json.loads(about["classes"])) == student.classes
    assert tuple(json.loads(about["mean"])) == student.model.input.mean
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert images.shape[1:] == [3, 32, 32]
    assert isinstance(images.shape[0], str)
    assert probabilities.shape[1] == len(student.classes)


def test_prototypes_on_clip_are_exported_too(tmp_path: Path) -> None:
    """timm cannot hold them, other runtimes can."""
    write_clip(tmp_path / "clip")
    section = BackboneSection(name=f"open_clip:{tmp_path / 'clip'}")
    backbone = load_backbone(section)
    head = HeadBank(torch.randn(1, 3, backbone.num_features), log_scale=torch.ones(1))
    folder = tmp_path / "student"
    assert save_head(folder, head, backbone, section, ["a", "b", "c"]) is not None
    output = tmp_path / "clip.onnx"
    assert call(["export", "student", str(folder), "--format", "onnx", "-o", str(output)]) == 0
    student = cosup.load_student(folder, "cpu")
    pixels = torch.stack([student.transform(image.convert("RGB")) for image in digit_images()])
    found = by_onnx(output, student.model.pixels(pixels).contiguous())
    torch.testing.assert_close(found, student.predict(digit_images()), atol=1e-5, rtol=0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line on stderr of a command that ends with status 2."""
    capsys.readouterr()
    assert call(["export", "student", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_bad_input_is_one_line_and_nothing_is_written(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "old.onnx").write_text("old")
    (world / "bare").mkdir()
    before = sorted(map(str, world.parent.rglob("*")))
    cases: list[tuple[list[object], str]] = [
        ([world], "--format"),
        ([world, "--format", "onyx"], "onnx"),
        ([world, "--format", "onnx", "-o", world / "old.onnx"], "old.onnx"),
        ([world, "--format", "onnx", "-o", world / "a.pt2"], "a.pt2"),
        ([world, "--format", "onnx", "-o", world], "--output"),
        ([world, "-o", "a.onnx", "--push", "me/it"], "--output"),
        ([world, "--format", "onnx", "--private"], "--private"),
        ([world / "bare", "--format", "onnx"], "bare"),
        ([world / "nowhere", "--format", "onnx"], "nowhere"),
        ([world, "--push", "name"], "owner/name"),
    ]
    for arguments, named in cases:
        assert named in refused(capsys, *arguments)
    monkeypatch.setattr("cosup.runs.export_student.find_spec", lambda module: None)
    assert "cosup[onnx]" in refused(capsys, world, "--format", "onnx")
    assert sorted(map(str, world.parent.rglob("*"))) == before
    assert (world / "old.onnx").read_text() == "old"


def test_a_file_that_predicts_something_else_is_not_kept(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call_of = export_student._call
    monkeypatch.setattr(export_student, "_call", lambda *given: 0.99 * call_of(*given))
    assert call(["export", "student", str(world), "--format", "torch_export"]) == 1
    assert "differ" in capsys.readouterr().err
    assert not list(world.glob("*student.*"))


class FakeHub:
    """What a push asks of the hub, in order."""

    def __init__(self, public: bool | None = None) -> None:
        self.public = public
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("whoami", "create_repo", "upload_folder", "upload_file"):
            patch.setattr(HfApi, name, self.answer(name))
        patch.setattr(HfApi, "model_info", lambda _, repo: self.info(repo))
        patch.setattr("cosup.runs.push.get_token", lambda: "hf_token")
        patch.setattr("cosup.runs.push.hub_resolves", lambda: True)

    def answer(self, name: str) -> Any:
        def answered(_: HfApi, *args: Any, **settings: Any) -> Any:
            self.asked.append((name, {**settings, "args": args}))
            return type("Made", (), {"repo_url": "https://hub/me/it"})

        return answered

    def info(self, repo: str) -> Any:
        if self.public is None:
            import httpx

            response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
            raise RepositoryNotFoundError("no such repo", response=response)
        return type("Info", (), {"private": not self.public})


def test_a_push_uploads_the_folder_and_the_file(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    hub.patch(monkeypatch)
    assert call(["export", "student", str(world), "--push", "me/it", "--private"]) == 0
    assert "hf-hub:me/it" in capsys.readouterr().out
    assert [name for name, _ in hub.asked] == ["whoami", "create_repo", "upload_folder"]
    assert hub.asked[1][1]["private"] is True
    folder = hub.asked[2][1]
    assert (folder["repo_id"], Path(folder["folder_path"])) == ("me/it", world / "student")
    whole = {"student.json", "team/team.json", "model.safetensors", "manifest.jsonl"}
    kept = filter_repo_objects(
        [*whole, ".env", "notes.txt"],
        allow_patterns=folder["allow_patterns"],
    )
    assert set(kept) == whole
    hub.asked.clear()
    more = ["--format", "torch_export"]
    assert call(["export", "student", str(world), "--push", "me/it", *more]) == 0
    name, file = hub.asked[-1]
    assert (name, file["path_in_repo"]) == ("upload_file", "student.pt2")


def test_a_link_out_of_the_folder_is_not_uploaded(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made the folder could ask for any file of who pushes it."""
    hub = FakeHub()
    hub.patch(monkeypatch)
    folder = Path(shutil.copytree(world / "student", tmp_path / "student"))
    (tmp_path / "secret").write_text("secret")
    (folder / "more.json").symlink_to(tmp_path / "secret")
    assert "more.json" in refused(capsys, folder, "--push", "me/it")
    assert hub.asked == []


def test_a_public_repository_does_not_get_what_is_private(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(public=True)
    hub.patch(monkeypatch)
    assert "me/it" in refused(capsys, world, "--push", "me/it", "--private")
    assert [name for name, _ in hub.asked] == ["whoami"]


def test_without_credentials_nothing_is_written_or_uploaded(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the real client, which has no token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(HfApi, "upload_folder", lambda *_, **__: pytest.fail("uploaded"))
    line = refused(capsys, world, "--push", "me/it", "--format", "torch_export")
    assert "HF_TOKEN" in line
    assert not (world / "student.pt2").exists()


def test_a_hub_that_cannot_be_reached_is_one_line(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_no_token_at_all")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "me/it" in refused(capsys, world, "--push", "me/it")


def test_the_card_says_how_to_load_it_and_that_works(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world / "student"
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification"
    digit_images()[1].save(world / "one.png")
    blocks = [part.partition("```")[0] for part in card.text.split("```python\n")[1:]]
    found = []
    for block in blocks:
        assert "PATH" in block
        code = block.replace("PATH", str(folder)).replace("IMAGE.png", str(world / "one.png"))
        names: dict[str, Any] = {}
        exec(code, names)
        found.append(names["probabilities"])
        if "label" in names:
            assert names["label"] == cosup.load_student(folder).classes[int(found[-1].argmax())]
    assert len(found) == 2
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_the_card_names_the_teachers_of_all_rounds(world: Path) -> None:
    summary = json.loads((world / "summary.json").read_text())
    assert len(summary["rounds"]) > 1
    summary["rounds"][0]["teachers"] = ["early", "ann"]
    config, folder = load_config(world / "config.yaml"), world / "student"
    text = card(config, ("a", "b"), summary, folder, None)
    assert "3 weak teachers (early, ann, ben)" in text


def test_predict_reads_a_student_of_the_hub(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(world / "student", tmp_path / "snapshot"))
    monkeypatch.setattr("cosup.student.folder.snapshot_download", lambda *_, **__: str(folder))
    digit_images()[1].save("one.png")
    assert call(["predict", "hf-hub:me/it", "one.png", "-o", "a.csv"]) == 0
    assert call(["predict", str(world), "one.png", "-o", "b.csv"]) == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


def test_the_student_predicts_what_its_run_recorded(world: Path) -> None:
    """But for the rounding of features and probabilities to half precision."""
    config = load_config(world / "config.yaml")
    data = load_data(config.data, config.run.seed, 1, None, teacher_train=False)
    student = cosup.load_student(world, "cpu")
    found = student.predict([data.read(int(row)) for row in data.rows("test")])
    last = json.loads((world / "summary.json").read_text())["rounds"][-1]["round"]
    recorded = Layout(world).round(last).test.read(len(student.classes)).dense()
    torch.testing.assert_close(found, recorded, atol=3e-3, rtol=0)
