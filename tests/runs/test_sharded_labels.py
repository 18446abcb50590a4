"""Labels and estimates of sources of a sharded run: those of the same samples in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.digits_manifest import write_digits
from helpers.sharded_config import sharded_config
from pyarrow.parquet import read_table

import cosup
from cosup.analysis import Run, load_run, tables
from cosup.analysis.labels import FinalLabels
from cosup.assignment.dawid_skene import DawidSkene
from cosup.assignment.fused import Fused
from cosup.config import read_config
from cosup.evidence import Truth
from cosup.layout import Layout
from cosup.layout.schemas import LABEL_COLUMNS
from cosup.levels import Level, Task
from cosup.posterior import find_judge, fit_posterior
from cosup.probabilities import ProbTable
from cosup.runs import run_config
from cosup.runs.export_labels import export_labels
from cosup.runs.verify import verify
from cosup.seeds import seed_for
from cosup.sharded.evidence import TableAnnotations
from cosup.sharded.store import Product, tensors_of

ANNOTATORS = {"ann": (0.8, 1.0), "ben": (0.6, 0.5)}
"""The shares of right answers, and of samples that are answered."""
ROWS = 600


def write_world(folder: Path) -> Path:
    """Write a manifest of digits in two domains, all with labels, and the annotators' tables."""
    labels = write_digits(folder / "images", ROWS)
    rows, draw = np.arange(ROWS), np.random.default_rng(0)
    manifest = {
        "id": [f"sample-{row}" for row in rows],
        "uri": [f"images/{row:04d}.png" for row in rows],
        "label": labels.astype(str),
        "domain": np.where(rows % 3 == 0, "clinic", "archive"),
        "group": [f"case-{row // 2}" for row in rows],
    }
    pd.DataFrame(manifest).to_parquet(folder / "all.parquet")
    for name, (right, coverage) in ANNOTATORS.items():
        said = np.where(draw.random(ROWS) < right, labels, draw.integers(10, size=ROWS))
        table = pd.DataFrame({"sample_id": manifest["id"], "label": said.astype(str)})
        table[draw.random(ROWS) < coverage].to_csv(folder / f"{name}.csv", index=False)
    return folder / "all.parquet"


def run_world(manifest: Path, output: Path, **changes: Any) -> Path:
    tables = [
        {"name": name, "annotations": f"{manifest.parent}/{name}.csv", "missing": "abstain"}
        for name in ANNOTATORS
    ]
    shares = {"teacher_train": 0.2, "student_train": 0.6, "validation": 0.1, "test": 0.1}
    sections = {
        "data": {"splits": shares},
        "teachers": {"external": tables},
        "rounds": {"assignment": "dawid_skene", "consistency": ["teacher_student"]},
        "controls": [],
        **changes,
    }
    run_config(sharded_config(manifest, **sections), output)
    return output


class Shards:
    """The files of the shards of a finished run, joined."""

    def __init__(self, path: Path) -> None:
        self.files = Layout(path)
        self.before, self.round = load_run(path).summary["rounds"][-2:]

    def tables(self, kind: str, name: str) -> list[Path]:
        return sorted((self.files.shards / kind / name).rglob("*.parquet"))

    def table(self, kind: str, name: str) -> pd.DataFrame:
        parts = [pd.read_parquet(file) for file in self.tables(kind, name)]
        return pd.concat(parts, ignore_index=True)

    def probs(self, folder: str) -> ProbTable:
        """Return the class probabilities of all shards in a folder below that of shards."""
        files = sorted((self.files.shards / folder).rglob("*.parquet"))
        tables = [ProbTable.from_tensors(10, tensors_of(read_table(file))) for file in files]
        return ProbTable.concat(tables)

    @property
    def features(self) -> torch.Tensor:
        files = sorted((self.files.shards / "features").rglob("*.parquet"))
        return torch.cat([tensors_of(read_table(file))["features"] for file in files])

    @property
    def fused(self) -> Fused | None:
        """The assigner of the last round, fitted, if it fuses."""
        if self.round["assigner"] != "fused":
            return None
        fused = Fused()
        fused.load_state_dict(self.files.round(self.round["round"]).assigner.read())
        return fused

    @property
    def decisions(self) -> pd.DataFrame:
        return self.table("decisions", f"round-{self.round['round']}")

    @property
    def predictions(self) -> ProbTable:
        return self.probs(Product(**self.round["products"]["predictions"]).folder)

    @property
    def labels(self) -> pd.DataFrame:
        return self.table("labels", "final")


@pytest.fixture(scope="module", params=["dawid_skene", "fused"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = write_world(tmp_path_factory.mktemp("world"))
    rounds = {"assignment": request.param, "consistency": ["teacher_student"]}
    return run_world(manifest, manifest.parent / "run", rounds=rounds)


def test_every_sample_has_a_label(finished: Path) -> None:
    shards, found = Shards(finished), load_run(finished)
    labels, decisions = shards.labels, shards.decisions
    assert len(shards.tables("labels", "final")) > 2
    assert list(labels.columns) == [name for name in LABEL_COLUMNS if name != "review_rank"]
    assert labels["sample_id"].tolist() == decisions["sample_id"].tolist()
    pd.testing.assert_frame_equal(
        cosup.load_run(finished).labels(), labels, check_categorical=False
    )
    right = (labels["label"].astype(str) == decisions["true_label"].astype(str)).to_numpy()
    numbers = found.summary["labels"]
    assert numbers["samples"] == len(labels)
    assert numbers["accuracy"] == pytest.approx(right.mean())
    assert numbers["estimated_right"] == pytest.approx(labels["probability"].mean())
    assert numbers["source"] == pytest.approx(
        {name: (labels["source"] == name).mean() for name in numbers["source"]}
    )
    three = numbers["by_class"]["3"]
    mine = (labels["label"] == "3").to_numpy()
    assert (three["samples"], three["accuracy"]) == (mine.sum(), pytest.approx(right[mine].mean()))


def evidence_of(shards: "Shards", run: Run) -> tuple[Task, Level]:
    """Return the samples of all shards and their annotations in memory."""
    names, every = shards.round["teachers"], run.scopes()
    scopes = every.take([every.names.index(name) for name in names])
    tables = [shards.probs(f"annotations/{name}") for name in names]
    level = Level(0, scopes, TableAnnotations(tables))
    domains = torch.from_numpy((shards.decisions["domain"] == "clinic").to_numpy().astype(int))
    truth = Truth(torch.full((len(domains),), -1), domains)
    return Task((level,), torch.zeros(0), torch.zeros(0), truth, 10, shards.features), level


def test_labels_are_those_of_the_samples_in_memory(finished: Path) -> None:
    """The posterior of `cosup.posterior`, fitted to the same arrays, gives the same labels."""
    shards, run = Shards(finished), load_run(finished)
    task, level = evidence_of(shards, run)
    student, fused = shards.predictions, shards.fused
    state = None if fused is None else fused.state_dict()
    posterior = fit_posterior(task, level, student, seed_for(0, "labels"), fused, state)
    parts = []
    for probs, mine, evidence in posterior.beside(
        student, torch.tensor(shards.decisions["kept"].to_numpy()), cross_fitted=True
    ):
        weights = posterior.fused.weights(evidence, level.scopes)
        parts.append(FinalLabels.of(probs, evidence.annotations, weights, mine))
    expected = FinalLabels.concat(parts, level.scopes.names)
    same = shards.labels["label"].astype(int).to_numpy() == expected.label.numpy()
    assert same.mean() > 0.99
    error = np.abs(shards.labels["probability"].to_numpy() - expected.probability.numpy())
    assert np.median(error) < 0.01


def test_sources_are_judged_by_the_posterior_of_the_samples_in_memory(finished: Path) -> None:
    shards, run = Shards(finished), load_run(finished)
    task, level = evidence_of(shards, run)
    if shards.fused is None:
        judge = find_judge(
            task,
            level,
            DawidSkene(),
            None,
            shards.predictions,
            seed_for(0, "sources"),
            cross_fitted=True,
        )
    else:
        guide = shards.probs(Product(**shards.before["products"]["predictions"]).folder)
        judge = find_judge(task, level, shards.fused, guide, None, 0, cross_fitted=True)
    found = torch.cat([judge.fused.posterior(evidence) for evidence in judge.stream])
    for name in run.teacher_names:
        label, confidence = shards.probs(f"annotations/{name}").top()
        likely = found.gather(1, label.long()[:, None])[:, 0][confidence > 0]
        estimate = run.summary["sources"][name]["reliability"]
        assert estimate == pytest.approx(float(likely.mean()), abs=0.01)


def test_sources_are_measured_over_all_shards(finished: Path) -> None:
    shards, found = Shards(finished), load_run(finished)
    truth = shards.decisions["true_label"].astype(int).to_numpy()
    assert list(found.summary["sources"]) == [*found.teacher_names, "student"]
    for name in found.teacher_names:
        label, confidence = (part.numpy() for part in shards.probs(f"annotations/{name}").top())
        answered, numbers = confidence > 0, found.summary["sources"][name]
        assert numbers["coverage"] == pytest.approx(answered.mean())
        right = (label == truth)[answered]
        assert numbers["accuracy_where_answered"] == pytest.approx(right.mean())
        low, high = numbers["accuracy_ci95"]
        assert low < right.mean() < high
        for domain, part in numbers["by_region"].items():
            mine = (shards.decisions["domain"] == domain).to_numpy()[answered]
            assert part["accuracy"] == pytest.approx(right[mine].mean())
    for name, (_, coverage) in ANNOTATORS.items():
        assert found.summary["sources"][name]["coverage"] == pytest.approx(coverage, abs=0.07)


def test_agreement_is_counted_over_all_shards(finished: Path) -> None:
    shards, found = Shards(finished), load_run(finished)
    agreement = found.summary["agreement"]
    assert agreement["cross_fitted"]
    own, labels = shards.predictions.top()[0].numpy(), shards.labels["label"].astype(int).to_numpy()
    assert agreement["student_and_labels"] == pytest.approx((own == labels).mean())
    said = {}
    for name in ANNOTATORS:
        label, confidence = (part.numpy() for part in shards.probs(f"annotations/{name}").top())
        said[name] = np.where(confidence > 0, label, -1)
    both = (said["ann"] >= 0) & (said["ben"] >= 0)
    share = (said["ann"] == said["ben"])[both].mean()
    assert agreement["sources"]["ann"]["others"]["ben"] == pytest.approx(share)
    asked = (shards.decisions["assigned_teacher"].astype(str) == "ann").mean()
    assert agreement["sources"]["ann"]["asked"] == pytest.approx(asked)


def test_the_least_sure_labels_are_shown_with_pictures(finished: Path) -> None:
    shards, run = Shards(finished), load_run(finished)
    table = tables(run)["review_list"]
    labels = shards.labels.assign(true_label=shards.decisions["true_label"])
    order = np.lexsort((-labels["runner_up_probability"], labels["probability"]))[:24]
    expected = labels.iloc[order].reset_index(drop=True)
    assert table["review_rank"].tolist() == list(range(1, 25))
    for column in ("sample_id", "label", "runner_up", "source", "true_label"):
        assert table[column].astype(str).tolist() == expected[column].astype(str).tolist()
    assert table["probability"].to_numpy() == pytest.approx(expected["probability"].to_numpy())
    assert set(table["sample_id"]) <= set(run.thumbnails)
    first = int(order[0])
    for name in ANNOTATORS:
        said = shards.probs(f"annotations/{name}").top()
        answer = str(int(said[0][first])) if float(said[1][first]) > 0 else "abstains"
        assert f"{name}: {answer}" in table["sources"][0]


def test_labels_are_exported_shard_after_shard(finished: Path, tmp_path: Path) -> None:
    export_labels(str(finished), "csv", tmp_path / "out.csv")
    written = pd.read_csv(tmp_path / "out.csv", dtype={"label": str})
    labels = Shards(finished).labels
    assert list(written.columns) == ["sample_id", "label", "probability"]
    assert written["sample_id"].tolist() == labels["sample_id"].tolist()
    assert written["label"].tolist() == labels["label"].astype(str).tolist()


def test_labels_that_are_gone_are_written_again(finished: Path) -> None:
    file = Shards(finished).tables("labels", "final")[1]
    whole = file.read_bytes()
    file.unlink()
    assert not verify(str(finished)).is_whole
    found = load_run(finished)
    config = read_config(str(finished / "config.yaml"), ()).checked()
    run_config(config, finished, resume=True)
    assert file.read_bytes() == whole
    assert load_run(finished).summary["labels"] == found.summary["labels"]
