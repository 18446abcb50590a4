"""A bench is read with all of its mistakes, and its cells have the settings that they should."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.user_errors import keys_of, mistakes_of

from cosup.cli import call
from cosup.config.bench import read_bench
from cosup.config.files import shipped_benches

BACKBONE = {"name": "cifar_resnet8", "weights": None, "image_size": 16}
DIGITS: dict[str, Any] = {"data": {"source": "digits"}, "student": {"backbone": BACKBONE}}
TREE: dict[str, Any] = {
    "name": "b",
    "seeds": [3, 5],
    "data": {"digits": DIGITS, "quick": {"base": "quickstart", "controls": []}},
    "methods": {
        "plain": {"rounds": {"choose": None, "loss": "cross_entropy"}},
        "warm": {"rounds": {"choose": None, "loss": {"name": "product", "warmup": 0.3}}},
    },
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "b.yaml"
    path.write_text(yaml.safe_dump({**TREE, **changes}, sort_keys=False))
    return path


def test_each_cell_has_the_settings_of_its_data_set_and_method(tmp_path: Path) -> None:
    bench = read_bench(written(tmp_path), ["rounds.min_kept=0.5"])
    assert bench.directory == Path("outputs/b")
    assert [cell.name for cell in bench.cells] == [
        f"{data}/{method}, seed {seed}"
        for seed in (3, 5)
        for data in ("digits", "quick")
        for method in ("plain", "warm")
    ]
    cell = next(one for one in bench.cells if one.name == "quick/warm, seed 5")
    config = cell.config
    assert config.rounds.loss.settings["warmup"] == 0.3
    assert config.rounds.min_kept == 0.5
    assert config.student.training.steps == 600, "as in the quickstart"
    assert (config.controls, config.rounds.choose) == ([], None)
    assert (config.run.seed, config.run.seeds, config.run.output) == (5, None, "outputs")


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"sets": {}}, ["sets"]),
        ({"seeds": []}, ["seeds"]),
        ({"seeds": [1, 1]}, ["seeds"]),
        ({"methods": {}}, ["methods"]),
        ({"name": "../up"}, ["name"]),
        ({"output": "s3://bucket/runs"}, ["output"]),
        ({"baseline": "plane"}, ["baseline"]),
        ({"methods": {"m": {"data": {"limit": 5}}}}, ["methods.m.data"]),
        ({"methods": {"m": {"run": {"seed": 5}}}}, ["methods.m.run"]),
        ({"data": {"d": {**DIGITS, "run": {"seed": 5}}}}, ["data.d.run"]),
        ({"methods": {"m": {"rounds": {"los": "product"}}}}, ["rounds.los"]),
        ({"methods": {"m": {"rounds": {"losses": ["product"]}}}}, ["rounds.losses"]),
        ({"methods": {"m": {"execution": {"backend": "ray"}}}}, ["execution.backend"]),
    ],
)
def test_mistakes_name_their_key(changes: dict[str, Any], keys: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, **{"data": {"digits": DIGITS}, **changes})
    mistakes = mistakes_of(read_bench, path)
    assert keys_of(mistakes) == keys
    assert all(str(path) in str(error) for error in mistakes)


def test_all_mistakes_are_told_at_once_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one of a method once, not for each data set. Nothing is written."""
    monkeypatch.chdir(tmp_path)
    bad = {"plain": {"rounds": {"los": "product"}}, "warm": {"student": {"hed": 1}}}
    written(tmp_path, methods=bad)
    assert call(["bench", "b.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "methods.plain: rounds.los" in lines[0]
    assert "methods.warm: student.hed" in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["b.yaml"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "method=plane"], "did you mean 'plain'"),
        (["--only", "sets=digits"], "data=NAME"),
        (["--only", "seed=4"], "3, 5"),
        (["rounds.repeat"], "section.key=value"),
        (["--output", "s3://bucket/b"], "a folder of this machine"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, data={"digits": DIGITS}, methods={"plain": {}, "warm": {}})
    assert call(["bench", str(path), "--plan", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize("text", ["", "- a", "name: b", "data: 5"])
def test_a_file_that_is_no_bench(text: str, tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(text)
    assert mistakes_of(read_bench, path)


@pytest.mark.parametrize("name", shipped_benches())
def test_shipped_benches_are_read_by_name(name: str, tmp_path: Path) -> None:
    bench = read_bench(Path(name))
    assert len(bench.section.seeds) >= 3
    assert len(bench.cells) > 10
