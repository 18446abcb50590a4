"""The README is true: its Python runs, its configs validate, its paths exist."""

import re
from pathlib import Path

import pytest
import yaml
from helpers.made_run import make_run

from cosup.config import check_config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_its_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (code for code in blocks("python") if "cosup.decide" in code)
    assert len([line for line in code.splitlines() if line]) == 10
    exec(compile(code, "README", "exec"), {})
    assert "torch.Size([100, 2])" in capsys.readouterr().out


def test_its_python_on_runs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart_ce"):
        make_run(tmp_path / "outputs" / name)
    found = [code for code in blocks("python") if "load_run" in code]
    assert len(found) == 2
    for code in found:
        exec(compile(code, "README", "exec"), {})


@pytest.mark.parametrize("text", blocks("yaml"))
def test_its_configs_validate(text: str) -> None:
    whole = {"data": {"source": "digits"}, "student": {"backbone": {"name": "resnet18"}}}
    check_config({**whole, **yaml.safe_load(text)})


def test_the_paths_it_names_exist() -> None:
    tree = re.findall(r"^    (\S+)  +\S", TEXT[TEXT.index("## The tree") :], re.MULTILINE)
    table = [ROOT / "cosup" / name for name in re.findall(r"`(\w+(?:/\w+)*\.py)`", TEXT)]
    paths = [*(ROOT / name for name in tree), *table, ROOT / "tests/report/report.png"]
    assert len(paths) > 20
    assert [str(path) for path in paths if not path.exists()] == []
