"""`rounds.losses` runs each loss as if alone, shares their common work, and compares them."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console, RenderableType

import cosup.runs.pipeline  # loaded, so that conftest.py leaves out its reports
import cosup.runs.side_by_side  # noqa: F401  (loaded, so that conftest.py runs seeds in turn)
from cosup.analysis import load_run, runs_inside, tables
from cosup.cli import call
from cosup.config import Config, check_config
from cosup.config.schema import Losses
from cosup.errors import UserError
from cosup.files import write_json
from cosup.layout import Layout
from cosup.runs import describe_run, plan_config, run_config
from cosup.runs.directory import RunDirectory
from cosup.runs.listing import list_things
from cosup.runs.losses import loss_names, take_over

SEEDS = (0, 1)
NAMES = ("distillation", "adaptive_confidence")


def tree(output: Path, rounds: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Return a config tree: rotated digits, two levels, a few steps."""
    return {
        "run": {"name": "ablation", "output": str(output), "seeds": list(SEEDS)},
        "data": {"source": "digits", "limit": 240},
        "teachers": {
            "hierarchy": {"by": "class", "levels": [1, 2]},
            "model": {"name": "linear_pixels", "size": 4},
            "training": {"steps": 20, "lr": 0.02},
        },
        "student": {
            "backbone": {"name": "test_resnet.r160_in1k", "weights": None, "image_size": 32},
            "training": {"steps": 20, "lr": 0.02, "standardize": True},
        },
        "rounds": rounds,
        "controls": ["best_teacher", "random_assignment", "ceiling"],
        "execution": {"device": "cpu", "workers": 1},
        **sections,
    }


def config(output: Path, losses: Any = NAMES, **sections: Any) -> Config:
    return check_config(tree(output, {"losses": list(losses)}, **sections))


def without_costs(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary without times and memory."""
    text = json.dumps({k: v for k, v in summary.items() if k not in ("seconds", "peak_rss_mb")})
    stripped = json.loads(text)
    over = stripped.get("over_seeds", {})
    stripped["over_seeds"] = {
        key: value
        for key, value in over.items()
        if key.split(".")[0] not in ("seconds", "peak_rss_mb")
    }
    return dict(stripped)


def text_of(thing: RenderableType) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(thing)
    return captured.get()


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def finished(output: Path) -> tuple[Path, dict[str, Any]]:
    """Return the directory and the summary of an ablation of two losses on two seeds."""
    directory = output / "ablation"
    return directory, run_config(config(output), directory)


def test_each_loss_equals_a_run_of_that_loss_alone(
    finished: tuple[Path, dict[str, Any]], output: Path
) -> None:
    directory, summary = finished
    run = {"output": str(output), "seed": SEEDS[1]}
    alone = check_config(tree(output, {"loss": NAMES[1]}, run=run))
    result = run_config(alone, output / "alone")
    beside = json.loads((directory / NAMES[1] / f"seed-{SEEDS[1]}" / "summary.json").read_text())
    assert without_costs({**beside, "run": "run"}) == without_costs(result)
    over_seeds = summary["losses"][NAMES[1]]["over_seeds"]["student.accuracy"]
    assert over_seeds["values"][1] == result["student"]["accuracy"]
    assert json.loads((directory / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["seed"] == list(SEEDS)
    assert summary["status"] == "finished"
    for name in NAMES:
        assert (directory / name / "seed-1" / "student").is_dir()


def test_work_shared_by_losses_is_done_once(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, _ = finished
    first, second = (directory / name / "seed-1" for name in NAMES)
    shared = [
        path.relative_to(first)
        for folder in ("teachers", "annotations")
        for path in (first / folder).rglob("*")
        if path.is_file()
    ]
    assert len(shared) > 10
    for path in shared:
        assert (first / path).samefile(second / path), path
    names = ("best_teacher", "random_assignment", "ceiling")
    controls = [Layout(Path()).control(name).path for name in names]
    for own in (*controls, Layout(Path()).correct.path):
        assert not (first / own).samefile(second / own)


def test_each_run_of_an_ablation_can_be_analysed(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, _ = finished
    inside = runs_inside(directory)
    assert len(inside) == len(NAMES) * len(SEEDS)
    for path in inside:
        run = load_run(path)
        assert run.missing == []
        found = tables(run)
        overview = found["overview"].set_index("who")["accuracy"]
        assert overview["student"] == run.summary["student"]["accuracy"]
        assert set(found["examples"]["sample_id"]) <= set(run.thumbnails)


def test_the_pair_is_the_difference_of_the_summaries(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    _, summary = finished
    (pair,) = summary["paired"]
    assert (pair["first"], pair["second"]) == (NAMES[1], NAMES[0])
    first, second = (
        summary["losses"][pair[side]]["over_seeds"]["student.accuracy"]["values"]
        for side in ("first", "second")
    )
    expected = [one - two for one, two in zip(first, second, strict=True)]
    assert pair["by_seed"] == pytest.approx(expected)
    assert pair["difference"] == pytest.approx(sum(expected) / len(expected))
    assert pair["better_on"] == sum(value > 0 for value in expected)


def test_printed_summary(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, summary = finished
    text = text_of(describe_run(summary, directory))
    for name in NAMES:
        values = summary["losses"][name]["over_seeds"]["student.accuracy"]["values"]
        assert "  ".join(f"{100 * value:.1f}" for value in values) in text
    (sentence,) = [line for line in text.splitlines() if f"{NAMES[1]}: " in line]
    assert "over seeds" in sentence
    assert "over test samples" in sentence
    assert "of 2 seeds" in sentence
    assert sentence.rstrip().endswith("significant")
    assert "ceiling" in text


def test_an_ablation_is_listed_by_loss(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, summary = finished
    accuracy = summary["losses"][NAMES[0]]["student"]["accuracy"]
    monkeypatch.setattr("cosup.runs.listing.RUNS", directory.parent)
    (run,) = [one for one in list_things("runs") if one["name"] == str(directory)]
    assert run["accuracy_by_loss"][NAMES[0]] == accuracy
    assert f"{NAMES[0]} {accuracy:.3f}" in run["description"]


def test_the_plan_names_the_losses(output: Path) -> None:
    words = " ".join(text_of(plan_config(config(output))).split())  # the line may be wrapped
    assert f"losses {', '.join(NAMES)}" in words


def test_an_interrupted_ablation_resumes(
    finished: tuple[Path, dict[str, Any]], output: Path, tmp_path: Path
) -> None:
    """Simulate a kill in the second seed of the second loss, before its last round."""
    directory, summary = finished
    path = tmp_path / "cut"
    shutil.copytree(directory, path)
    (path / "summary.json").unlink()
    cut = path / NAMES[1] / "seed-1"
    (cut.parent / "summary.json").unlink()
    for name in ("summary", "round-2", "control-random_assignment"):
        (cut / "stages" / f"{name}.json").unlink()
    kept = path / NAMES[1] / "seed-0" / "stages" / "summary.json"
    before = kept.stat().st_mtime_ns
    again = run_config(config(output), path, resume=True)
    assert {name: without_costs(one) for name, one in again["losses"].items()} == {
        name: without_costs(one) for name, one in summary["losses"].items()
    }
    assert again["paired"] == summary["paired"]
    assert kept.stat().st_mtime_ns == before


def test_replacing_an_ablation_needs_overwrite(
    finished: tuple[Path, dict[str, Any]], output: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r"
    shutil.copytree(finished[0], path)
    other = config(output, NAMES[:1], run={"output": str(output), "seed": 3}, controls=[])
    with pytest.raises(UserError, match="--resume continues"):
        run_config(other, path)
    with pytest.raises(UserError, match=r"changed: .*rounds\.losses"):
        run_config(other, path, resume=True)
    result = run_config(other, path, overwrite=True)
    assert (result["seed"], result["paired"], list(result["losses"])) == ([3], [], [NAMES[0]])
    assert not (path / NAMES[1]).exists()
    assert not list((path / NAMES[0]).glob("seed-*"))
    assert "adaptive" not in text_of(describe_run(result, path))


def test_a_single_seed_is_described_as_such(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, summary = finished
    losses = {
        name: json.loads((directory / name / "seed-0" / "summary.json").read_text())
        for name in NAMES
    }
    (pair,) = summary["paired"]
    pair = {**pair, "by_seed": pair["by_seed"][:1], "ci95": None, "deviation": None}
    one = {**summary, "seed": [0], "losses": losses, "paired": [pair]}
    text = text_of(describe_run(one, directory))
    assert "significant over test samples; one seed cannot show that of seeds" in text
    assert "by seed" not in text


@pytest.mark.parametrize("links", [True, False])
def test_shared_files_are_linked_or_copied_and_never_replaced(
    finished: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    links: bool,
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    source = finished[0] / NAMES[0] / "seed-0"
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers" / "all.json").write_text("mine")
    take_over(source, RunDirectory(tmp_path))
    assert (tmp_path / "teachers" / "all.json").read_text() == "mine"
    taken = [path for path in tmp_path.rglob("*") if path.is_file()]
    taken.remove(tmp_path / "teachers" / "all.json")
    for path in taken:
        original = source / path.relative_to(tmp_path)
        assert path.read_bytes() == original.read_bytes()
        assert path.samefile(original) is links
    stages = {path.stem for path in (tmp_path / "stages").iterdir()}
    assert stages == {"teachers", "annotate", "features"}


@pytest.mark.parametrize(
    ("losses", "names"),
    [
        (["distillation", "cross_entropy"], ["distillation", "cross_entropy"]),
        (
            ["adaptive_confidence", {"name": "adaptive_confidence", "weight": "half"}],
            ["adaptive_confidence-adaptive", "adaptive_confidence-half"],
        ),
        (
            [{"name": "distillation", "tau": tau} for tau in (1.0, 4.0)],
            ["distillation-tau-1.0", "distillation-tau-4.0"],
        ),
        (
            [
                {"name": "adaptive_confidence", "constants": [index / 10000] * 30}
                for index in range(2)
            ],
            ["adaptive_confidence", "adaptive_confidence-2"],
        ),
    ],
)
def test_losses_of_equal_name_get_distinct_names(losses: list[Any], names: list[str]) -> None:
    assert loss_names([Losses.check(loss) for loss in losses]) == names


def test_mistakes_are_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "c.json", tree(tmp_path / "o", {}))
    best = "{name: adaptive_confidence, weight: best_constant}"
    for overrides, message in (
        (["rounds.losses=[distillation, distillation]"], "distillation is given twice"),
        (["rounds.losses=[distillation]", "run.seeds=[1, 1]"], "give each seed once"),
        (["rounds.losses=[]"], "rounds.losses"),
        (["rounds.losses=[destillation]"], "did you mean 'distillation'"),
        (["run.seeds=null", f"rounds.loss={best}"], "rounds.loss: adaptive_confidence, weight"),
        ([f"rounds.losses=[distillation, {best}]"], "data.splits.validation=0.1"),
    ):
        assert call(["run", "c.json", *overrides]) == 2, overrides
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1
        assert message in errors[0]
        assert not (tmp_path / "o" / "ablation").exists()


def test_each_run_records_its_correct_answers(finished: tuple[Path, dict[str, Any]]) -> None:
    directory, summary = finished
    for place, seed in enumerate(SEEDS):
        tensors = Layout(directory).of_loss(NAMES[0]).of_seed(seed).correct.read()
        values = summary["losses"][NAMES[0]]["over_seeds"]["student.accuracy"]["values"]
        assert float(tensors["correct"].double().mean()) == pytest.approx(values[place])
        assert tensors["groups"].dtype == torch.int64
