"""A small case of tests/benchmarks/bench_fusion.py: cosup beside crowd-kit and CROWDLAB."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import bench_fusion
from benchmarks.bench_fusion import METHODS, OURS, STUDENT, Book, Student, Task, markdown, run
from benchmarks.fusion_sets import annotator_settings
from sklearn.datasets import load_digits

from cosup.config.external import ExternalSection
from cosup.teachers.simulated import Labelled, simulate

PEERS = {"crowd-kit MajorityVote", "crowd-kit DawidSkene", "cleanlab CROWDLAB"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a set: 1,400 scans with pixels as features, three annotators and no teacher."""
    pixels, labels = load_digits(return_X_y=True)
    classes = tuple(str(digit) for digit in range(10))
    train, test = slice(0, 1400), slice(1400, None)
    truth = labels[train].astype(np.int64)
    ids = [f"{number:04d}" for number in range(1400)]
    samples = Labelled(ids, truth, np.zeros(1400, np.int64), classes, ("all",))
    chosen = annotator_settings(classes, ("all",))
    answers = [
        simulate(ExternalSection.model_validate({"name": name, "simulate": chosen[name]}), samples)
        for name in ("ada", "ben", "cleo")
    ]
    path = tmp_path_factory.mktemp("sets")
    np.savez(
        path / "pixels-0.npz",
        features=pixels[train].astype(np.float32),
        test_features=pixels[test].astype(np.float32),
        truth=truth,
        test_truth=labels[test],
        soft=np.zeros((1400, 0, 10), np.float32),
        annotators=np.stack(answers, 1),
        generalist=np.zeros((1400, 10), np.float32),
        scope_classes=np.ones((0, 10), bool),
        scope_domains=np.ones((0, 1), bool),
        classes=np.array(classes),
        domain_names=np.array(["all"]),
    )
    return path


@pytest.mark.slow
def test_fused_is_not_behind_the_peers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("crowdkit", reason="needs the extra 'bench'")
    pytest.importorskip("cleanlab", reason="needs the extra 'bench'")
    short = STUDENT.training.model_copy(update={"steps": 150})
    monkeypatch.setattr(bench_fusion, "STUDENT", STUDENT.model_copy(update={"training": short}))
    book = Book(folder / "results.jsonl")
    run(book, folder, [("pixels", 0, "annotators")], {*PEERS, OURS})
    results = book.results()
    labels = {name: results["pixels", "annotators", name][0].labels for name in (*PEERS, OURS)}
    # Two standard errors of a share of 1,400 are 1.6 points at 90 %.
    assert labels[OURS] >= max(labels[name] for name in PEERS) - 0.016
    assert labels[OURS] > labels["crowd-kit MajorityVote"] + 0.05
    again = Book(folder / "results.jsonl")
    assert again.results() == results  # kept, so that a second call computes nothing
    assert OURS in markdown(results)


def test_an_annotator_alone_is_taken_at_its_word(folder: Path) -> None:
    pytest.importorskip("crowdkit", reason="needs the extra 'bench'")
    with np.load(folder / "pixels-0.npz") as file:
        arrays = dict(file)
    arrays["annotators"] = arrays["annotators"][:, :1]
    sources = Student(Task(arrays), 0).task.sources("annotators")
    assert sources is not None
    for name in ("crowd-kit MajorityVote", "cosup mean"):
        assert (METHODS[name].aggregate(sources, None) == arrays["annotators"][:, 0]).all()
