"""What is reported of a finished sharded run: sums over shards are those over all its decisions."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.digits_manifest import write_digits
from helpers.user_errors import mistakes_of

from cosup.analysis import Run, load_run, tables
from cosup.analysis.decisions import all_decisions
from cosup.config import Config, read_config
from cosup.errors import UserError
from cosup.layout import Layout
from cosup.report.command import report_page, runs_to_report
from cosup.runs import plan_config, review_run, run_config
from cosup.runs.export_labels import export_labels
from cosup.runs.verify import own_config, verify

LISTED_ALONE = {"limits"}
"""Figures that need a row for each sample of student_train."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of digits in two domains, all with labels, in several shards."""
    folder = tmp_path_factory.mktemp("labelled")
    labels = write_digits(folder / "images", 700)
    rows = np.arange(len(labels))
    manifest = {
        "id": [f"sample-{row}" for row in rows],
        "uri": [f"images/{row:04d}.png" for row in rows],
        "label": labels.astype(str),
        "domain": np.where(rows % 3 == 0, "clinic", "archive"),
    }
    pd.DataFrame(manifest).to_parquet(folder / "all.parquet")
    shares = {"teacher_train": 0.3, "student_train": 0.5, "validation": 0.1, "test": 0.1}
    path = str(folder / "all.parquet")
    tree: dict[str, Any] = {
        "run": {"name": "sharded", "loggers": []},
        "data": {"source": "manifest", "path": path, "sharded": True, "splits": shares},
        "teachers": {
            "hierarchy": {"by": "class", "levels": [1, 2]},
            "model": {"name": "linear_pixels", "size": 8},
            "training": {"steps": 30, "batch_size": 32},
        },
        "student": {
            "backbone": {"name": "test_resnet", "weights": None, "image_size": 32},
            "training": {"steps": 30, "batch_size": 32},
        },
        "rounds": {
            "assignment": "gate",
            "consistency": [{"name": "teacher_student", "mode": "mask"}],
            "repeat": 2,
        },
        "execution": {"shard_size": 150, "device": "cpu", "threads": 1, "workers": 1},
        "controls": ["ceiling"],
    }
    run_config(Config.model_validate(tree), folder / "run")
    return folder / "run"


def decisions_of(run: Run, number: int) -> pd.DataFrame:
    """Return the decisions of all shards of a round."""
    files = sorted((run.path / "shards" / "decisions" / f"round-{number}").rglob("*.parquet"))
    assert len(files) > 2
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def counted(table: pd.DataFrame, by: list[str]) -> dict[Any, int]:
    texts = table[by].astype(str)
    samples = table["samples"] if "samples" in table else pd.Series(1, table.index)
    return samples.groupby([texts[name] for name in by]).sum().to_dict()


def test_sums_are_those_over_all_decisions(finished: Path) -> None:
    run = load_run(finished)
    assert run.rounds == [1, 2, 3, 4]
    for number in run.rounds:
        whole = decisions_of(run, number)
        sums = run.round(number)
        assert len(sums) < len(whole)
        for by in (["assigned_teacher", "true_label"], ["domain", "kept"], ["rejected_by"]):
            assert counted(sums, by) == counted(whole, by)
        right = whole["annotation"].astype(str) == whole["true_label"].astype(str)
        assert sums.loc[sums["correct"], "samples"].sum() == right.sum()
        if number > 1:
            before = decisions_of(run, number - 1)["assigned_teacher"].astype(str)
            joined = whole.assign(previous_teacher=before)
            by = ["previous_teacher", "assigned_teacher"]
            assert counted(sums, by) == counted(joined, by)


def test_figures_of_sums_are_those_of_the_samples(finished: Path) -> None:
    run = load_run(finished)
    found = tables(run)
    for row in found["load"].to_dict("records"):
        whole = decisions_of(run, row["round"])
        mine = whole[whole["assigned_teacher"] == row["teacher"]]
        assert row["samples"] == len(mine)
        if len(mine):
            right = mine["annotation"].astype(str) == mine["true_label"].astype(str)
            assert row["annotation_accuracy"] == pytest.approx(right.mean())
            assert row["kept"] == pytest.approx(mine["kept"].mean())
    for number, row in zip(run.rounds, found["rounds"].to_dict("records"), strict=True):
        sums = all_decisions(run)[number - 1]
        assert row["annotation_accuracy"] == pytest.approx(sums.mean(sums.correct))
    changed = decisions_of(run, 3)["assigned_teacher"] != "all"
    assert found["rounds"]["changed"].iloc[2] == pytest.approx(changed.mean())


def test_annotations_are_counted_by_class_whether_assigned_or_not(finished: Path) -> None:
    found = tables(load_run(finished))["annotation_accuracy"]
    alone = found[found["teacher"] == "all"]
    assert (alone["assigned_samples"] == alone["samples"]).all()
    assert np.allclose(alone["assigned_accuracy"], alone["accuracy"])
    special = found[(found["teacher"] != "all") & (found["accuracy"] > 0)]
    assert special["teacher"].nunique() == 2
    assert special["class"].is_unique  # the scopes of specialists have no class in common


def test_the_page_tells_what_is_left_out_and_why(finished: Path) -> None:
    run = runs_to_report([str(finished)], None, text=False)[0]
    report_page(run, None)
    assert {"overview", "teachers", "rounds", "assignment", "load", "flow"} <= set(tables(run))
    assert {"filters", "domains", "classes", "weights", "cost", "examples"} <= set(tables(run))
    assert {"sources", "source_parts", "agreement", "labels", "review_list"} <= set(tables(run))
    assert set(run.absent) >= LISTED_ALONE
    assert all("data.sharded" in run.absent[name] for name in LISTED_ALONE)
    page = (finished / "report" / "index.html").read_text()
    assert "data.sharded" in page
    assert "clinic" in page


def test_what_needs_each_sample_is_refused_in_one_line(finished: Path) -> None:
    with pytest.raises(UserError, match=r"data\.sharded"):
        _ = load_run(finished).decisions
    for refused in (
        lambda: export_labels(str(finished), "cleanlab"),
        lambda: review_run(str(finished), 5, None, None, page=False),
    ):
        (mistake,) = mistakes_of(refused)
        assert "data.sharded" in str(mistake)


def test_a_plan_tells_the_files_and_bytes_of_the_shards(finished: Path) -> None:
    plan = plan_config(read_config(str(finished / "config.yaml"), ()).checked())
    assert plan.shards is not None
    assert plan.samples.splits["student_train"].samples == plan.shards.samples
    assert plan.controls.names == ["ceiling"]  # the manifest has labels of student_train
    assert not plan.controls.left_out
    kinds = {one.kind: one for one in plan.shards.products}
    together = {"weights": "decisions", "counts": "decisions"}
    found = dict.fromkeys(kinds, (0, 0))
    for file in (finished / "shards").rglob("*.parquet"):
        name = file.relative_to(finished / "shards").parts[0]
        files, nbytes = found[together.get(name, name)]
        found[together.get(name, name)] = files + 1, nbytes + file.stat().st_size
    for kind, (files, nbytes) in found.items():
        assert files == kinds[kind].files
        overhead = 3000 * files  # of a Parquet file, which small shards are mostly made of
        assert nbytes <= kinds[kind].nbytes + overhead
        assert kinds[kind].nbytes <= 3 * nbytes


def test_every_file_of_shards_is_verified(finished: Path, tmp_path: Path) -> None:
    """What is damaged or gone is named, and a resumed run makes the same files again."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    files = {str(p.relative_to(run)): p for p in (run / "shards").rglob("*.parquet")}
    found = verify(str(run))
    assert found.is_whole
    assert {name for name in found.states if name.startswith("shards/")} == set(files)
    assert not any("shards/" in line for line in found.lines())
    whole = {name: path.read_bytes() for name, path in files.items()}
    summary = Layout(run).summary.read()

    def one_of(kind: str, number: int = 1) -> str:
        return sorted(name for name in files if name.startswith(f"shards/{kind}"))[number]

    changed = bytearray(whole[one_of("features")])
    changed[60] ^= 1
    files[one_of("features")].write_bytes(changed)
    gone = [one_of("annotations"), one_of("decisions/round-1"), one_of("predictions/round-2")]
    for name in gone:
        files[name].unlink()
    found = verify(str(run))
    assert not found.is_whole
    wrong = {name: str(state) for name, state in found.states.items() if state != "whole"}
    assert wrong == {one_of("features"): "damaged", **dict.fromkeys(gone, "missing")}
    assert sum("shards/" in line for line in found.lines()) == 4
    again = run_config(own_config(found), run, resume=True)
    kept = ("seconds", "peak_rss_mb")
    assert {k: v for k, v in again.items() if k not in kept} == {
        k: v for k, v in summary.items() if k not in kept
    }
    assert verify(str(run)).is_whole
    assert {name: path.read_bytes() for name, path in files.items()} == whole


def test_a_run_that_is_not_finished_has_no_index_of_shards(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    Layout(run).shard_index.remove()
    found = verify(str(run))
    assert not any(name.startswith("shards/") for name in found.states)
    assert "shards" in found.result()
