"""`validate` and `plan` find every mistake at once, and `run` finds nothing new and leaves nothing.

The catalogue has one breakage per setting. Each is found by the first command that can know it, any
number of them together, and told by the setting or the file that is wrong.
"""

import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from cosup.cli import call
from cosup.config import read_config
from cosup.runs.checks import CONFIG_CHECKS, SAMPLE_CHECKS, run_checks

NAMES = ("nought", "one", "two", "three")
EACH = 12
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images `own/CLASS/ID.png`, annotation tables of them, and tables with a mistake."""
    root = tmp_path_factory.mktemp("world")
    digits, rows = load_digits(), []
    for label, name in enumerate(NAMES):
        (root / "own" / name).mkdir(parents=True)
        for index in np.flatnonzero(digits.target == label)[:EACH]:
            pixels = (digits.images[index] * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(root / "own" / name / f"{index:04d}.png")
            rows.append((f"{name}/{index:04d}.png", name))
    labels = pd.DataFrame(rows, columns=["sample_id", "label"])
    long = pd.concat([labels.assign(annotator=who) for who in ("alice", "bob")])
    for name, table in {
        "good": labels,
        "long": long,
        "half": labels[::2],
        "strangers": labels.assign(sample_id="x/y/" + labels["sample_id"].str[-8:-4] + "z.jpg"),
        "typo": labels.replace({"label": {"two": "tow"}}),
        "again": pd.concat([long, long[:1].assign(label="three")]),
        "silent": long.assign(label=long["label"].where(long["annotator"] == "alice", "")),
        "noid": labels.rename(columns={"sample_id": "number"}),
    }.items():
        table.to_csv(root / f"{name}.csv", index=False)
    shutil.copytree(root / "own", root / "liar")
    shutil.copytree(root / "own" / "one", root / "single" / "one")
    for path in sorted((root / "liar" / "two").iterdir())[:3]:
        path.write_text("this is text, whatever the name says")
    (root / "leaves.py").write_text("raise SystemExit(3)\n")
    table = labels.rename(columns={"sample_id": "path"})
    splits = np.array(["student_train", "test", "tset"])[np.arange(len(table)) % 3]
    table.assign(split=splits).to_csv(root / "own" / "split.csv", index=False)
    (root / "rules.py").write_text("def answer(images):\n    raise NotImplementedError\n")
    return root


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The world as the working directory; no command leaves anything in it."""
    monkeypatch.chdir(world)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = sorted(world.iterdir())
    yield world
    left = set(world.iterdir()) - {*before, world / "c.yaml", world / "__pycache__"}
    shutil.rmtree(world / "runs", ignore_errors=True)
    assert not left - {world / "runs"}


def project() -> Tree:
    """A small valid config with a part for each breakage."""
    return {
        "run": {"name": "tiny", "output": "runs"},
        "data": {
            "source": "image_folder",
            "root": "own",
            "splits": {"teacher_train": 0.3, "student_train": 0.5, "test": 0.2},
        },
        "teachers": {
            "hierarchy": {
                "by": "explicit",
                "teachers": [
                    [
                        {"name": "all"},
                        {"name": "low", "scope": {"class": ["nought", "one"]}},
                        {"name": "rules", "model": {"name": "call:rules:answer"}},
                    ]
                ],
            },
            "model": {"name": "linear_pixels", "size": 4},
            "training": {"steps": 3},
            "external": [
                {"name": "crowd", "annotations": "good.csv"},
                {"annotations": "long.csv"},
            ],
        },
        "student": {
            "backbone": {"name": "test_resnet.r160_in1k", "weights": None, "image_size": 32},
            "training": {"steps": 3},
        },
        "rounds": {"assignment": {"name": "mean"}},
        "controls": [],
        "execution": {"device": "cpu", "workers": 1, "threads": 1},
    }


def put(key: str, value: Any) -> Callable[[Tree], None]:
    """Return a breakage that sets a key."""

    def change(tree: Tree) -> None:
        *parts, last = key.split(".")
        spot: Any = tree
        for part in parts:
            spot = spot[int(part)] if isinstance(spot, list) else spot.setdefault(part, {})
        spot[int(last) if isinstance(spot, list) else last] = value

    return change


class Breakage(NamedTuple):
    """A change that makes the config wrong.

    where: the key or the file of its error. found_by: the first command that finds it. part: of
    breakages with a part in common only one can be made. needs, breaks: the facts without which it
    cannot be checked, and those that are not known because of it.
    """

    change: Callable[[Tree], None]
    where: str
    found_by: str
    part: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    breaks: frozenset[str] = frozenset()


def parts(*names: str) -> frozenset[str]:
    return frozenset(names)


CROWD, VOTES = "teachers.external.0.annotations", "teachers.external.1.annotations"
FIRST = "teachers.hierarchy.teachers.0"
CLASSES, SAMPLES, TEACHERS = parts("classes"), parts("samples"), parts("teachers")
UNLISTED = parts("classes", "samples", "teachers")
BREAKAGES = {
    "unknown key": Breakage(put("run.sed", 1), "run.sed", "settings"),
    "no folder": Breakage(
        put("data.root", "nowhere"), "data.root", "validate", parts("data"), breaks=UNLISTED
    ),
    "wrong type": Breakage(
        put("data.limit", -1), "data.limit", "settings", parts("data"), breaks=UNLISTED
    ),
    "files that are no images": Breakage(
        put("data.root", "liar"), "data.max_broken", "plan", parts("data")
    ),
    "a single class": Breakage(
        put("data.root", "single"), "data", "plan", parts("data"), breaks=UNLISTED
    ),
    "an output that is a file": Breakage(put("run.output", "noid.csv"), "run.output", "validate"),
    "a module that exits": Breakage(
        put(f"{FIRST}.2.model.name", "call:leaves:answer"),
        f"{FIRST}.2.model.name",
        "validate",
        parts("rules"),
    ),
    "noise of another shape": Breakage(
        put("data.noise", {"kind": "matrix", "matrix": [[1.0, 0.0], [0.0, 1.0]]}),
        "data.noise.matrix",
        "plan",
        parts("data"),
        needs=SAMPLES,
    ),
    "misspelt network": Breakage(
        put(f"{FIRST}.0.model", {"name": "resnt18"}), f"{FIRST}.0.model", "validate"
    ),
    "no module": Breakage(
        put(f"{FIRST}.2.model.name", "call:rulez:answer"),
        f"{FIRST}.2.model.name",
        "validate",
        parts("rules"),
    ),
    "unknown class in a scope": Breakage(
        put(f"{FIRST}.1.scope", {"class": ["onee"]}),
        f"{FIRST}.1.scope.class",
        "validate",
        needs=CLASSES,
        breaks=TEACHERS,
    ),
    "no table": Breakage(put(CROWD, "none.csv"), "none.csv", "validate", parts("crowd")),
    "a table without ids": Breakage(put(CROWD, "noid.csv"), "noid.csv", "validate", parts("crowd")),
    "an unknown label": Breakage(
        put(CROWD, "typo.csv"), "typo.csv", "validate", parts("crowd"), needs=CLASSES
    ),
    "a table of strangers": Breakage(
        put(CROWD, "strangers.csv"), "strangers.csv", "plan", parts("crowd", "ids"), needs=SAMPLES
    ),
    "half a table": Breakage(
        put(CROWD, "half.csv"), "half.csv", "plan", parts("crowd"), needs=SAMPLES | TEACHERS
    ),
    "answers twice": Breakage(
        put(VOTES, "again.csv"), "again.csv", "validate", parts("votes", "ids")
    ),
    "a silent annotator": Breakage(
        put(VOTES, "silent.csv"), "silent.csv", "validate", parts("votes", "ids"), needs=CLASSES
    ),
    "a table of two teachers": Breakage(
        put(VOTES, "good.csv"),
        "teachers.external.1",
        "validate",
        parts("crowd", "votes"),
        breaks=TEACHERS,
    ),
    "no weights": Breakage(
        put("student.backbone.weights", "none.pt"),
        "student.backbone",
        "validate",
        parts("student"),
    ),
    "misspelt backbone": Breakage(
        put("student.backbone.name", "test_resnett"),
        "student.backbone",
        "validate",
        parts("student"),
    ),
    "features of another library": Breakage(
        put("student.backbone.features", "pooled_conv"),
        "student.backbone.features",
        "validate",
        parts("student.backbone.features"),
    ),
    "a head's optimizer": Breakage(
        put("student.training.optimizer", "sgd"),
        "student.training.optimizer",
        "settings",
        parts("student"),
    ),
    "a router without its teacher": Breakage(
        put("rounds.assignment", {"name": "single", "teacher": "al"}),
        "rounds.assignment, level 0",
        "plan",
        parts("rounds"),
        needs=SAMPLES | TEACHERS,
    ),
    "unknown assigner": Breakage(
        put("rounds.assignment.name", "mena"), "rounds.assignment.name", "settings", parts("rounds")
    ),
    "no such device": Breakage(put("execution.device", "tpu"), "execution.device", "validate"),
}
STAGES = {"settings": (), "validate": CONFIG_CHECKS, "plan": (*CONFIG_CHECKS, *SAMPLE_CHECKS)}


def places(tree: Tree, stage: str) -> list[str]:
    """Return the place of every error that a command finds: its key, else its file or part."""
    Path("c.yaml").write_text(yaml.safe_dump(tree))
    _, mistakes = run_checks(read_config("c.yaml"), STAGES[stage])
    return [".".join(error.key) or str(error.where) for error in mistakes.errors]


def broken(names: Iterable[str]) -> Tree:
    tree = project()
    for name in names:
        BREAKAGES[name].change(tree)
    return tree


def test_the_project_is_right(here: Path) -> None:
    assert places(project(), "plan") == []


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_mistake_is_found_by_the_first_command_that_can_know_it(name: str, here: Path) -> None:
    wrong, stages = BREAKAGES[name], list(STAGES)
    for stage in stages:
        found = places(broken([name]), stage)
        if stages.index(stage) < stages.index(wrong.found_by):
            assert found == []
        else:
            (place,) = found
            assert wrong.where in place


@pytest.mark.parametrize("seed", range(12))
def test_plan_finds_exactly_the_mistakes_that_were_made(seed: int, here: Path) -> None:
    """Of any breakages together, all that can be known in spite of the others, and nothing else."""
    draw = random.Random(seed)
    chosen: list[str] = []
    for name in draw.sample(list(BREAKAGES), draw.randint(2, 8)):
        if not any(BREAKAGES[name].part & BREAKAGES[other].part for other in chosen):
            chosen.append(name)
    unknown = frozenset[str]().union(*(BREAKAGES[name].breaks for name in chosen))
    expected = [BREAKAGES[name].where for name in chosen if not BREAKAGES[name].needs & unknown]
    found = places(broken(chosen), "plan")
    assert len(found) == len(expected), (chosen, found)
    for where in expected:
        assert any(where in place for place in found), (chosen, found)


MANY = (
    "unknown key",
    "noise of another shape",
    "misspelt network",
    "no module",
    "unknown class in a scope",
    "a table of strangers",
    "no weights",
    "no such device",
)


def test_mistakes_in_six_sections_are_a_line_each_of_plan_and_of_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = broken(MANY)
    tree["rounds"]["repeet"] = 2
    (here / "c.yaml").write_text(yaml.safe_dump(tree))
    lines = {}
    for verb in ("plan", "run"):
        assert call([verb, "c.yaml"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines[verb] = captured.err.splitlines()
    assert lines["plan"] == lines["run"]
    assert len(lines["plan"]) == len(MANY) + 1
    assert all(line.startswith("error: ") for line in lines["plan"])
    assert not (here / "runs").exists()


FROM_PLAN = [name for name, wrong in BREAKAGES.items() if wrong.found_by == "plan"]


@pytest.mark.parametrize("name", [*FROM_PLAN, "a table of two teachers", "answers twice"])
def test_run_finds_what_plan_found_and_leaves_nothing(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "c.yaml").write_text(yaml.safe_dump(broken([name])))
    assert call(["plan", "c.yaml"]) == 2
    planned = capsys.readouterr().err
    assert call(["run", "c.yaml"]) == 2
    _, *told = capsys.readouterr().err.splitlines(keepends=True)  # the first line tells what is run
    assert "".join(told) == planned
    assert len(planned.splitlines()) == 1
    assert not (here / "runs").exists()


def test_a_split_that_is_none_is_named_with_the_nearest(here: Path) -> None:
    tree = project()
    tree["data"] = {"source": "table", "table": "own/split.csv"}
    tree["teachers"]["external"] = []
    (place,) = places(tree, "plan")
    assert place == "data.splits"
