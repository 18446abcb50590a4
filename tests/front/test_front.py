"""Experiments run from Python as from the command line, and the run is an object to use."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.user_errors import key_of

import cosup
import cosup.runs.pipeline  # loaded, so that conftest.py leaves out its reports
from cosup.analysis import tables
from cosup.cli import call
from cosup.config.yaml import to_yaml
from cosup.errors import RunError, UserError

TREE: dict[str, Any] = {
    "run": {"name": "tiny"},
    "data": {"source": "digits", "limit": 200, "rotations": [0, 90]},
    "teachers": {
        "hierarchy": {"by": "class", "levels": [1, 2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 30, "lr": 0.02},
    },
    "student": {
        "backbone": {"name": "test_resnet.r160_in1k", "weights": None, "image_size": 32},
        "training": {"steps": 30, "lr": 0.02, "standardize": True},
    },
    "controls": ["best_teacher", "ceiling"],
    "execution": {"device": "cpu", "workers": 1},
}


def without_costs(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary as in its file, without times and memory."""
    kept = {k: v for k, v in summary.items() if k not in ("seconds", "peak_rss_mb")}
    return dict(json.loads(json.dumps(kept)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> cosup.Run:
    return cosup.run(TREE, output=tmp_path_factory.mktemp("finished") / "tiny")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_mapping_gives_the_numbers_of_the_command_line(finished: cosup.Run) -> None:
    Path("tiny.yaml").write_text(to_yaml(TREE))
    assert call(["run", "tiny.yaml"]) == 0
    other = cosup.load_run("outputs/tiny")
    assert without_costs(other.summary) == without_costs(finished.summary)
    pd.testing.assert_frame_equal(other.labels(), finished.labels())


def test_the_run_is_an_object_to_use(finished: cosup.Run) -> None:
    assert finished.accuracy == finished.summary["student"]["accuracy"]
    assert finished.config["run"]["name"] == "tiny"
    assert finished.runs == {}
    probs = finished.student("cpu").predict(np_image())
    assert probs.shape == (1, 10)
    labels = finished.labels()
    assert len(labels) == len(finished.train)
    assert {"sample_id", "label", "probability", "review_rank"} <= set(labels)
    assert finished.report() == finished.path / "report" / "index.html"
    assert finished.report().read_text().startswith("<!doctype html>")
    assert set(finished.decisions["round"]) == {1, 2}
    assert "overview" in tables(finished), "the analysis takes the same run"


def np_image() -> Any:
    from PIL import Image

    return Image.fromarray(np.zeros((8, 8), np.uint8))


def test_the_run_tells_what_to_use(finished: cosup.Run) -> None:
    advice = finished.summary["verdict"][0]
    assert str(finished).splitlines()[1:] == [advice]
    assert "\n" not in repr(finished)
    assert str(finished.path) in repr(finished)
    html = finished._repr_html_()
    assert html.count("<table") == html.count("</table>") >= 1
    assert advice in html
    assert "Padding" not in html
    assert "<b>co-supervised student</b>" in html


def test_a_run_without_truth_tells_its_estimate(finished: cosup.Run) -> None:
    run = cosup.load_run(finished.path)
    run.summary = {**finished.summary, "student": {"accuracy": None}}
    assert run.accuracy is None
    assert "by estimate" in repr(run)


def test_a_tilde_is_the_home_folder(finished: cosup.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(finished.path.parent))
    again = cosup.run("~/tiny/config.yaml", output="~/tiny", resume=True)
    assert again.path == cosup.load_run("~/tiny").path == finished.path


def test_a_person_reviews_images(finished: cosup.Run) -> None:
    questions = finished.review(6)
    assert len(questions) == 6
    assert set(questions["label"]) == {""}
    truth = dict(zip(finished.train["sample_id"], finished.train["true_label"], strict=True))
    questions["label"] = [truth[name] for name in questions["sample_id"]]
    found = finished.read_answers(questions)
    assert found["answers"] == 6
    assert {one["name"] for one in found["sources"]} >= set(finished.teacher_names)


def test_what_stops_midway_is_resumed(finished: cosup.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise error

    for resume, error in ((False, RunError("the disk is full")), (True, KeyboardInterrupt())):
        with monkeypatch.context() as patch:
            patch.setattr(cosup.runs.pipeline, "finish_controls", stop)
            with pytest.raises(type(error)) as caught:
                cosup.run(TREE, resume=resume)
        assert any("resume=True" in note for note in caught.value.__notes__)
    halfway = cosup.load_run("outputs/tiny")
    assert halfway.summary == {}
    assert halfway.accuracy is None
    assert "unfinished" in str(halfway)
    assert "unfinished" in halfway._repr_html_()
    with pytest.raises(UserError):
        halfway.labels()
    with pytest.raises(UserError):
        halfway.student()
    resumed = cosup.run(TREE, resume=True)
    assert without_costs(resumed.summary) == without_costs(finished.summary)
    again = cosup.run(TREE, resume=True)
    assert again.summary == resumed.summary, "a finished run is returned as it is"


def test_every_mistake_is_told_at_once_and_nothing_is_written(here: Path) -> None:
    with pytest.raises(cosup.UserError) as caught:
        cosup.run(TREE, "rounds.repeat=0", "run.sede=3", "teachers.hierarchy.levels=[20]")
    assert isinstance(caught.value, ValueError)
    keys = {key_of(error) for error in caught.value.errors}
    assert {"rounds.repeat", "run.sede"} <= keys
    assert len(str(caught.value).splitlines()) == len(caught.value.errors) == 3
    assert caught.value.__cause__ is None
    assert list(here.iterdir()) == []


def test_errors_speak_of_arguments(finished: cosup.Run) -> None:
    with pytest.raises(UserError) as caught:
        cosup.run(TREE, output=finished.path)
    assert "resume=True" in str(caught.value)
    assert "--" not in str(caught.value)
    with pytest.raises(UserError):
        cosup.run(TREE, output=finished.path, resume=True, overwrite=True)


@pytest.mark.parametrize("given", [3, None, ["quickstart"], lambda: None])
def test_what_is_no_config_is_refused(given: Any) -> None:
    for use in (cosup.run, cosup.plan, cosup.validate, cosup.load_config):
        with pytest.raises(UserError):
            use(given)


def test_it_runs_in_another_thread(finished: cosup.Run) -> None:
    made: list[cosup.Run] = []
    thread = threading.Thread(target=lambda: made.append(cosup.run(TREE, overwrite=True)))
    thread.start()
    thread.join()
    assert without_costs(made[0].summary) == without_costs(finished.summary)


def test_several_seeds_and_losses_are_runs_within_a_run(finished: cosup.Run) -> None:
    losses = "rounds.losses=[cross_entropy, distillation]"
    whole = cosup.run(TREE, "run.seeds=[0, 1]", losses, "controls=[ceiling]")
    assert list(whole.runs) == ["cross_entropy", "distillation"]
    assert set(whole.summary["losses"]) == set(whole.runs)
    seeds = whole.runs["cross_entropy"]
    assert list(seeds.runs) == ["seed-0", "seed-1"]
    each = [one.accuracy for one in seeds.runs.values()]
    assert each[0] == finished.accuracy
    assert seeds.accuracy == pytest.approx(np.mean(np.array(each, float)))
    assert seeds.summary["seed"] == [0, 1]
    assert len(seeds.runs["seed-1"].labels()) == len(finished.labels())
    assert "<table" in seeds._repr_html_()
    assert "<table" in whole._repr_html_()
    assert str(seeds.path) in str(seeds)
    with pytest.raises(UserError) as first:
        seeds.labels()
    for several in (seeds, whole):
        for use in ("student", "labels", "report"):
            with pytest.raises(UserError) as caught:
                getattr(several, use)()
            assert ".runs[" in str(caught.value)
            assert caught.value is not first.value, "each has a traceback of its own"
        with pytest.raises(UserError):
            _ = several.decisions
    with pytest.raises(UserError):
        _ = whole.accuracy


def test_a_run_at_a_uri(here: Path, monkeypatch: pytest.MonkeyPatch, finished: cosup.Run) -> None:
    monkeypatch.setenv("COSUP_CACHE", str(here / "cache"))
    uri = f"file://{here}/there/tiny"
    for run in (cosup.run(TREE, output=uri), cosup.load_run(uri)):
        assert run.place == uri
        assert uri in str(run)
        assert uri in run._repr_html_()
        assert run.accuracy == finished.accuracy
        assert run.labels().equals(finished.labels())
        assert run.decisions.equals(finished.decisions)
        assert run.student().classes == finished.student().classes
        assert run.report().is_file()
    assert str(here / "cache") not in repr(run)


def test_what_is_no_run_is_refused(here: Path) -> None:
    with pytest.raises(UserError):
        cosup.load_run(here)


def test_a_plan_is_printed_or_shown(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    plan = cosup.plan(TREE, "run.seed=5")
    assert plan.run.seeds == [5]
    assert plan.samples.splits["test"].samples == 40
    assert "classes_0-4" in str(plan)
    assert "classes_0-4" in plan._repr_html_()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert list(here.iterdir()) == []


def test_validation_returns_the_config_and_looks_for_what_is_named() -> None:
    config = cosup.validate(TREE)
    assert isinstance(config, cosup.Config)
    # The disk's free space and the machine's memory change between two calls.
    made, again = cosup.plan(config), cosup.plan(TREE)
    assert replace(made, costs=again.costs) == again
    folder = {**TREE, "data": {"source": "image_folder", "root": Path("nowhere")}}
    cosup.load_config(folder)
    with pytest.raises(UserError) as caught:
        cosup.validate(folder)
    assert "nowhere" in str(caught.value)


@pytest.fixture
def listener() -> Iterator[list[logging.LogRecord]]:
    """A handler of the user on the root logger; the records that it gets."""
    got: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = got.append  # type: ignore[method-assign, assignment]
    root = logging.getLogger()
    root.addHandler(handler)
    yield got
    root.removeHandler(handler)


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_the_log_goes_to_the_handlers_of_the_user(
    level: int, listener: list[logging.LogRecord], here: Path
) -> None:
    """They get what they would get if a run did not lower the level for its own log.txt."""
    logger = logging.getLogger("cosup")
    before = logger.level
    logger.setLevel(level)
    try:
        cosup.run(TREE, "controls=[]", "teachers.hierarchy.levels=[1]")
    finally:
        logger.setLevel(before)
    informed = [one for one in listener if one.levelno == logging.INFO]
    assert bool(informed) == (level == logging.INFO)
    assert "INFO cosup" in (here / "outputs/tiny/log.txt").read_text()


SCRIPT = """
import sys
import cosup
tree = eval(sys.argv[1])
small = ("controls=[]", "teachers.hierarchy.levels=[1]")
run = cosup.run(tree, *small)
sys.stderr.write("-----")
again = cosup.run(tree, *small, "run.name=again", quiet=True)
assert run.accuracy == again.accuracy
assert "ray" not in sys.modules
print(run)
"""


def test_importing_cosup_imports_nothing_heavy() -> None:
    heavy = {"ray", "torch", "pandas", "pydantic"}
    script = f"import cosup, sys; sys.exit(bool({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_script_without_ray_shows_the_log_on_stderr(tmp_path: Path, forks: list[str]) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [*forks, str(tmp_path / "script.py"), repr(TREE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown, quiet = done.stderr.split("-----")
    assert "trained for 30 steps" in shown
    assert "trained" not in quiet
    assert len(done.stdout.splitlines()) == 2
