"""A bench runs each cell as an ordinary run, goes on after a failure, and resumes."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cosup.cli import call
from cosup.config.bench import Bench, read_bench
from cosup.layout import Layout
from cosup.runs import run_config, side_by_side
from cosup.runs.bench_plan import directory_of
from cosup.runs.stages import finish_rounds

SET: dict[str, Any] = {
    "data": {"source": "digits", "limit": 150, "rotations": [0, 90]},
    "teachers": {
        "hierarchy": {"by": "domain", "levels": [1, 2]},
        "model": {"name": "linear_pixels", "size": 4},
        "training": {"steps": 10, "lr": 0.02},
    },
    "student": {
        "backbone": {"name": "cifar_resnet8", "weights": None, "image_size": 16},
        "training": {"steps": 10},
    },
    "controls": ["team", "student_and_team", "labels", "ceiling"],
    "execution": {"device": "cpu", "workers": 1, "side_by_side": 1},
}
SHORT = {**SET, "controls": []}
GONE = {**SET, "data": {"source": "image_folder", "root": "no/such/folder"}}
METHODS = {
    "plain": {"rounds": {"assignment": "mean"}},
    "product": {"rounds": {"assignment": "mean", "loss": "product"}},
}
TREE: dict[str, Any] = {
    "name": "small",
    "output": "outputs",
    "seeds": [0, 1],
    "data": {"digits": SET, "gone": GONE},
    "methods": METHODS,
}


def written(folder: Path, **changes: Any) -> str:
    """Write a bench; return its file."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({**TREE, **changes}, sort_keys=False))
    return str(path)


def lines_of(capsys: pytest.CaptureFixture[str], start: str) -> list[str]:
    """Return the lines on stderr that begin so."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(start)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder in which a bench was run, half of which cannot be, and its exit status."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, call(["-q", "bench", written(folder)])


@pytest.fixture
def bench(ran: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The bench that was run; its folder is the working directory."""
    monkeypatch.chdir(ran[0])
    return read_bench(Path("small.yaml"))


def document() -> dict[str, Any]:
    return dict(json.loads(Path("outputs/small/bench.json").read_text()))


def stamps() -> dict[Path, int]:
    """Return when each finished run of the working directory ended."""
    found = Path("outputs/small").rglob("stages/summary.json")
    return {path: path.stat().st_mtime_ns for path in found}


def test_a_cell_that_fails_is_told_and_the_others_go_on(
    bench: Bench, ran: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran[1] == 1
    before, first = stamps(), document()
    assert len(before) == 4
    assert call(["bench", "small.yaml", "-q"]) == 1
    failed = lines_of(capsys, "failed: ")
    assert len(failed) == 4
    assert all("gone/" in line and "data.root" in line for line in failed)
    assert stamps() == before, "a finished run is not run again"
    assert document() == first


def test_a_cell_equals_a_run_of_its_config_alone(bench: Bench, tmp_path: Path) -> None:
    """Its teachers are those of the first method, not trained again."""
    cell = next(c for c in bench.cells if c.name == "digits/product, seed 1")
    path = directory_of(bench, cell)
    beside, alone = Layout(path).summary.read(), run_config(cell.config, tmp_path / "alone")
    for costs in ("seconds", "peak_rss_mb", "next"):  # the last names directories
        del beside[costs], alone[costs]
    assert beside == json.loads(json.dumps(alone))
    other = path.parents[1] / "plain" / path.name
    shared = list((path / "annotations").rglob("*.safetensors"))
    assert shared
    assert all(one.samefile(other / one.relative_to(path)) for one in shared)


def test_the_table_has_the_means_of_the_runs(bench: Bench) -> None:
    table = document()
    summaries = {
        method: [
            Layout(Path(f"outputs/small/digits/{method}")).of_seed(seed).summary.read()
            for seed in TREE["seeds"]
        ]
        for method in METHODS
    }
    assert [row["method"] for row in table["results"]] == list(METHODS)
    for row in table["results"]:
        own = summaries[row["method"]]
        assert row["seeds"] == 2
        assert row["student"] == pytest.approx(sum(s["student"]["accuracy"] for s in own) / 2)
        for column, control in (("with_team", "student_and_team"), ("labels", "labels")):
            mean = sum(s["controls"][control]["accuracy"] for s in own) / 2
            assert row[column] == pytest.approx(mean)
        assert row["floor"] == pytest.approx(sum(s["floor"]["accuracy"] for s in own) / 2)
    (pair,) = [
        row for row in table["differences"] if (row["of"], row["against"]) == ("student", "plain")
    ]
    means = {method: table["results"][place]["student"] for place, method in enumerate(METHODS)}
    assert pair["difference"] == pytest.approx(means["product"] - means["plain"])


def test_the_page_stands_alone_and_names_what_is_missing(bench: Bench) -> None:
    page = Path("outputs/small/bench.html").read_text()
    assert "src=" not in page
    assert re.findall('href="([^#][^"]*)"', page) == ["data:,"]
    assert all(method in page for method in METHODS)
    assert "2 combinations of method and data set" in page
    assert "Difference to plain" in page


def test_a_plan_tells_how_far_each_cell_is(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["bench", "small.yaml", "--plan", "--json", "--only", "seed=1"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [(c["data"], c["method"], c["state"]) for c in cells] == [
        ("digits", "plain", "finished"),
        ("digits", "product", "finished"),
        ("gone", "plain", "new"),
        ("gone", "product", "new"),
    ]
    assert call(["bench", "small.yaml", "--plan"]) == 0
    assert "4 of 8 runs finished" in capsys.readouterr().out


def test_another_config_is_one_line_and_overwrite_runs_it_again(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("outputs/small/digits", tmp_path / "small" / "digits")
    more = {"rounds": {**METHODS["product"]["rounds"], "targets": "hard"}}
    changes = {"data": {"digits": SET}, "seeds": [0], "output": str(tmp_path)}
    path = written(tmp_path, methods={**METHODS, "product": more}, **changes)
    assert call(["bench", path, "-q"]) == 1
    (line,) = lines_of(capsys, "failed: ")
    assert "digits/product, seed 0" in line
    assert "rounds.targets" in line
    plain = tmp_path / "small/digits/plain/seed-0/stages/summary.json"
    before = plain.stat().st_mtime_ns
    assert call(["bench", path, "-q", "--overwrite"]) == 0
    config = Layout(tmp_path / "small/digits/product/seed-0").config.read()
    assert config["rounds"]["targets"] == "hard"
    assert plain.stat().st_mtime_ns == before


def test_cells_side_by_side_have_the_numbers_of_cells_in_turn(
    bench: Bench,
    tmp_path: Path,
    forks: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second waits for the first, whose teachers it takes over."""
    monkeypatch.setattr(side_by_side, "PYTHON", tuple(forks))
    path = written(tmp_path, data={"digits": SHORT}, seeds=[1], output=str(tmp_path))
    here = ["execution.side_by_side=2", "execution.threads=1"]
    assert call(["bench", path, *here]) == 0
    assert "digits/product, seed 1: " in capsys.readouterr().err
    in_turn = {row["method"]: row["student"] for row in document()["runs"] if row["seed"] == 1}
    found = json.loads((tmp_path / "small" / "bench.json").read_text())["runs"]
    assert {row["method"]: row["student"] for row in found} == in_turn
    first, second = (tmp_path / "small" / "digits" / name / "seed-1" for name in METHODS)
    assert [
        one.relative_to(second)
        for one in (second / "annotations").rglob("*.safetensors")
        if not one.samefile(first / one.relative_to(second))
    ] == []


def test_an_interrupted_bench_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, data={"digits": SHORT}, seeds=[0], output=str(tmp_path))
    calls: list[Any] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return finish_rounds(*arguments)

    monkeypatch.setattr("cosup.runs.pipeline.finish_rounds", interrupted)
    assert call(["bench", path, "-q"]) == 130
    (line,) = lines_of(capsys, "interrupted")
    assert f"resume with: cosup bench {path}" in line
    assert not (tmp_path / "small" / "bench.json").exists()
    assert call(["bench", path, "-q"]) == 0
    assert len(calls) == 3
    assert "product" in capsys.readouterr().out
