"""`cosup annotate`: what the teachers of a run or a config say of images, as a table of votes."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.annotated_folder import NAMES, make_world

from cosup.analysis.records import load_run
from cosup.cli import call
from cosup.config.schema import Config
from cosup.layout import Layout
from cosup.runs import annotate as module
from cosup.runs.pipeline import run_one
from cosup.runs.prepare import list_samples
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.teachers.table import TableTeacher
from cosup.teachers.train import stored_teacher

RULES = """\
import torch

def bright(images):
    probs = torch.zeros(len(images), 4)
    probs[images.float().mean((1, 2, 3)) > 80, 0] = 1
    return probs
"""
RULE = {"name": "rule", "model": {"name": "call:bright_rules:bright"}}
TREE: dict[str, Any] = {
    "run": {"name": "voters", "output": "runs"},
    "data": {
        "source": "image_folder",
        "root": "own",
        "splits": {"teacher_train": 0.3, "student_train": 0.5, "test": 0.2},
    },
    "teachers": {
        "hierarchy": {
            "by": "explicit",
            "teachers": [
                [{"name": "all"}],
                [
                    {"name": "low", "scope": {"class": ["nought", "one"]}},
                    {"name": "high", "scope": {"class": ["two", "three"]}},
                    RULE,
                    {
                        "name": "net",
                        "model": {"name": "cifar_resnet8", "image_size": 16},
                        "training": {"steps": 3, "batch_size": 8, "lr": 0.01},
                    },
                ],
            ],
        },
        "model": {"name": "linear_pixels", "size": 8},
        "training": {"steps": 40, "batch_size": 32, "lr": 0.03},
        "external": [{"name": "ann", "annotations": "ann.csv"}],
    },
    "student": {
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
        "training": {"steps": 10},
    },
    "rounds": {"assignment": "agreement"},
    "controls": ["equal_budget_generalist"],
    "execution": {"device": "cpu", "workers": 1},
}
TRUSTED = ("--package", "bright_rules")
TEACHERS = ["all", "low", "high", "rule", "net"]
COLUMNS = ["task", "worker", "label", "probability"]
READ: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".jsonl": lambda path: pd.DataFrame(map(json.loads, path.read_text().splitlines())),
    ".parquet": pd.read_parquet,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with digits, a table of an annotator, a config and its finished run."""
    root = tmp_path_factory.mktemp("voters")
    make_world(root)
    (root / "bright_rules.py").write_text(RULES)
    (root / "voters.yaml").write_text(yaml.safe_dump(TREE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_one(Config.model_validate(TREE), Path("runs/voters"))
    return root


@pytest.fixture
def folder(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the same folder as the working directory; a test leaves it as it was."""
    before = {path.name for path in finished.iterdir()} | {"__pycache__"}
    monkeypatch.chdir(finished)
    yield finished
    for path in finished.iterdir():
        if path.name not in before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def annotated(*arguments: object) -> pd.DataFrame:
    """Return the votes that a command writes."""
    assert call(["annotate", *map(str, arguments), "-o", "votes.parquet", "--overwrite"]) == 0
    return pd.read_parquet("votes.parquet")


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Return the lines on stderr of a command that ends with status 2."""
    capsys.readouterr()
    assert call(["annotate", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


@pytest.mark.parametrize("ending", READ)
def test_all_teachers_of_a_run_say_of_an_image_what_they_said_in_it(
    folder: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(f"votes{ending}")
    assert call(["annotate", "runs/voters", "own", *TRUSTED, "-o", str(output)]) == 0
    assert sum("ann" in line for line in capsys.readouterr().err.splitlines()) == 1
    votes = READ[ending](output)
    assert votes.columns.tolist() == COLUMNS
    assert set(votes["worker"]) == set(TEACHERS)
    for _, workers in votes.groupby("task", sort=False)["worker"]:
        assert workers.tolist() == [name for name in TEACHERS if name in set(workers)]
    run = load_run("runs/voters")
    for name in TEACHERS:
        said, ids = run.annotated(name), run.train["sample_id"].astype(str)
        mine = votes[votes["worker"] == name].set_index("task")
        there = ("own/" + ids)[said.label >= 0]
        mine = mine[mine.index.isin("own/" + ids)].loc[there]
        assert mine["label"].tolist() == [run.classes[label] for label in said.label if label >= 0]
        expected = said.confidence[said.label >= 0].tolist()
        assert mine["probability"].tolist() == pytest.approx(expected, abs=2e-3)
    assert len(votes[votes["worker"] == "all"]) == 240
    assert 0 < len(votes[votes["worker"] == "rule"]) < 240
    assert not list(folder.glob(".votes*"))
    check_annotators(output, votes)


def check_annotators(output: Path, votes: pd.DataFrame) -> None:
    """Check that votes are read as annotators of another config, by their probabilities, too."""
    votes = votes.set_index(["worker", "task"])
    tree = {**TREE, "teachers": {"hierarchy": None, "external": [{"annotations": str(output)}]}}
    config = Config.model_validate(tree)
    data = list_samples(config)
    ((*specs,),) = plan_hierarchy(config.teachers, data.classes, data.domains, 0)
    assert {spec.name for spec in specs} == set(TEACHERS)
    rows = np.arange(len(data))
    for spec in specs:
        (batch,) = TableTeacher.read(spec, data).inputs(data, rows, None)  # type: ignore[arg-type]
        probs = TableTeacher.read(spec, data).annotate(batch)
        for name, found in zip(data.sample_ids(rows), probs, strict=True):
            if (spec.name, f"own/{name}") not in votes.index:
                assert float(found.sum()) == 0
                continue
            vote = votes.loc[spec.name, f"own/{name}"]
            said = float(found[data.classes.index(vote["label"])])
            assert said == pytest.approx(vote["probability"], abs=2e-3)


def test_a_run_at_a_uri_says_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSUP_CACHE", str(tmp_path / "cache"))
    there = annotated(f"file://{folder}/runs/voters", "own", *TRUSTED)
    here = annotated("runs/voters", "own", *TRUSTED)
    pd.testing.assert_frame_equal(there, here)


def test_a_config_trains_the_teachers_that_its_run_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities: list[tuple[str, str]] = []

    def noted(*arguments: Any) -> Any:
        teacher = stored_teacher(*arguments)
        identities.append((teacher.name, teacher.identity))
        return teacher

    of_run = annotated("runs/voters", "own/two", "--probabilities", *TRUSTED)
    monkeypatch.setattr(module, "stored_teacher", noted)
    of_config = annotated("voters.yaml", "own/two", "--probabilities")
    pd.testing.assert_frame_equal(of_run, of_config)
    files = Layout(Path("runs/voters")).teachers
    assert identities == [(name, files.record(name).read()["identity"]) for name in TEACHERS]
    assert of_run.columns.tolist() == [*COLUMNS, *(f"probability_{name}" for name in sorted(NAMES))]
    whole = of_run.filter(regex="^probability_")
    assert whole.sum(1).to_numpy() == pytest.approx(1, abs=2e-3)
    assert (whole.max(axis=1) - of_run["probability"]).abs().max() < 2e-3
    other = annotated("voters.yaml", "own/two", "--set", "run.seed=1")
    assert not np.allclose(
        *(t[t["worker"] == "net"]["probability"].to_numpy() for t in (of_run, other))
    )


def test_an_interrupted_command_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It trains no teacher again, and asks about the images that are left alone."""
    whole = annotated("voters.yaml", "own")
    Path("votes.parquet").unlink()
    real, parts = module._Asked.annotate, list[int]()

    def interrupted(asked: Any, images: Any) -> Any:
        if len(parts) == 1:
            raise KeyboardInterrupt
        return counted(asked, images)

    def counted(asked: Any, images: Any) -> Any:
        parts.append(len(images))
        return real(asked, images)

    monkeypatch.setattr(module._Asked, "annotate", interrupted)
    arguments = ["annotate", "voters.yaml", "own", "-o", "votes.parquet", "--batch-size", "25"]
    assert call(arguments) == 130
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]
    left = [".votes.parquet.rows", ".votes.parquet.teachers"]
    assert sorted(p.name for p in folder.glob("*votes*")) == left
    monkeypatch.setattr(module._Asked, "annotate", counted)
    (refused,) = lines(capsys, "voters.yaml", "own", "-o", "votes.parquet")
    assert "--resume" in refused
    *_, other = lines(
        capsys, "runs/voters", *TRUSTED, *arguments[2:], "--resume", "--probabilities"
    )
    assert "--overwrite" in other
    with open(".votes.parquet.rows", "ab") as file:
        file.write(b'["own/two/0002.png", [{"ta')  # a torn line

    def trained_again(*_: Any) -> None:
        raise AssertionError("a teacher is trained again")

    monkeypatch.setattr("cosup.teachers.train.train_group", trained_again)
    assert call([*arguments, "--resume"]) == 0
    assert parts == [100, 100, 40]
    pd.testing.assert_frame_equal(pd.read_parquet("votes.parquet"), whole, atol=2e-3)
    assert [p.name for p in folder.glob("*votes*")] == ["votes.parquet"]


def test_an_image_without_any_answer_is_not_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the command is unfinished; the output of a finished one does not name it."""
    tree = {**TREE, "teachers": {"hierarchy": {"by": "explicit", "teachers": [[RULE]]}}}
    Path("rule.yaml").write_text(yaml.safe_dump(tree))
    real, asked = module._Asked.annotate, list[str]()

    def interrupted(self: Any, images: Any) -> Any:
        if asked:
            raise KeyboardInterrupt
        asked.extend(images.items)
        return real(self, images)

    monkeypatch.setattr(module._Asked, "annotate", interrupted)
    arguments = ["annotate", "rule.yaml", "own/one", "-o", "votes.csv", "--batch-size", "10"]
    assert call(arguments) == 130
    first, asked = asked, []
    monkeypatch.setattr(module._Asked, "annotate", lambda a, i: asked.extend(i.items) or real(a, i))
    assert call([*arguments, "--resume"]) == 0
    assert len(first) == 40
    assert first + asked == sorted(map(str, Path("own/one").iterdir()))
    assert 0 < len(pd.read_csv("votes.csv")) < 60


def test_broken_images_are_set_aside_and_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("new").mkdir()
    shutil.copy(next(Path("own/two").iterdir()), "new/whole.png")
    Path("new/torn.png").write_bytes(b"no image")
    votes = annotated("runs/voters", "new", *TRUSTED)
    assert set(votes["task"]) == {"new/whole.png"}
    told = capsys.readouterr().err
    assert "1 of 2" in told
    assert "torn.png" in told
    *_, only = lines(capsys, "runs/voters", "new/torn.png", *TRUSTED, "-o", "other.csv")
    assert only.startswith("error: ")
    assert not list(folder.glob("*other*"))


def test_a_run_imports_nothing_that_is_not_allowed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody may have written it: neither a function nor a pickle as weights."""
    sys.modules.pop("bright_rules", None)
    (line,) = lines(capsys, "runs/voters", "own/two")
    assert "--package bright_rules" in line
    assert "bright_rules" not in sys.modules
    run = Path(shutil.copytree("runs/voters", "foreign"))
    record = Layout(run).teachers.record("all")
    about = json.loads(record.path.read_text())
    backbone = {"name": "cifar_resnet8", "weights": "foreign/weights.pt"}
    about["model"] = {"name": "linear_features", "backbone": backbone}
    record.write(about)
    (line,) = lines(capsys, "foreign", "own/two", *TRUSTED)
    assert "weights.pt" in line


def test_bad_input_is_one_line_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("old.csv").write_text("task,worker,label,probability\n")
    tables = {**TREE, "teachers": {"hierarchy": None, "external": TREE["teachers"]["external"]}}
    Path("tables.yaml").write_text(yaml.safe_dump(tables))
    started = Path("started")
    shutil.copytree("runs/voters", started)
    (started / "stages" / "prepared.json").unlink()
    cases: list[tuple[list[object], str]] = [
        (["runs/voters", "empty"], "empty"),
        (["runs/voters", "own", "-o", "old.csv"], "old.csv"),
        (["runs/voters", "own", "-o", "a.xlsx"], "a.xlsx"),
        (["runs/voters", "own", "-o", "old.csv/a.csv"], "old.csv/a.csv"),
        (["runs/voters", "own", "--resume"], "-o"),
        (["runs/voters", "own", "--device", "abacus"], "abacus"),
        (["runs/voters", "own", "--set", "run.seed=1"], "--set"),
        (["runs", "own"], "runs"),
        (["empty", "own"], "empty"),
        (["started", "own", "-o", "a.csv"], "started"),
        (["quickstrat", "own"], "'quickstart'"),
        (["voters.yaml", "own", "--set", "rounds.assignment=agrement"], "'agreement'"),
        (["voters.yaml", "own", "--set", "run.seeds=[0, 1]"], "run.seeds"),
        (["tables.yaml", "own", "-o", "a.csv"], "tables.yaml"),
    ]
    for arguments, named in cases:
        (line,) = lines(capsys, *arguments)
        assert line.startswith("error: ")
        assert named in line
    assert len(lines(capsys, "quickstrat", "gone.png", "empty", "-o", "old.csv")) == 4
    assert Path("old.csv").read_text() == "task,worker,label,probability\n"
    assert not list(folder.glob("*a.csv*"))
