"""Test the READMEs: their Python runs, their configs validate, and they have CI's commands.

tests/test_methods.py checks their links and the files that they name.
"""

import re
from pathlib import Path

import pytest
import yaml
from helpers.synthetic_run import make_run

from cosup.config import check_config, load_config
from cosup.controls import CONTROLS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLUSTERS = (ROOT / "ray_jobs" / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_python_on_tensors_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (code for code in blocks("python") if "cosup.decide" in code)
    assert len([line for line in code.splitlines() if line]) == 10
    exec(compile(code, "README", "exec"), {})
    assert "torch.Size([100, 2])" in capsys.readouterr().out


def test_python_on_runs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "outputs" / "quickstart")
    found = [code for code in blocks("python") if "load_run" in code]
    assert len(found) == 1
    exec(compile(found[0], "README", "exec"), {})


@pytest.mark.parametrize("text", [*blocks("yaml"), *blocks("yaml", CLUSTERS)])
def test_configs_validate(text: str) -> None:
    whole = {"data": {"source": "digits"}, "student": {"backbone": {"name": "resnet18"}}}
    check_config({**whole, **yaml.safe_load(text)})


@pytest.mark.parametrize(
    "command",
    [
        "pip install '.[quickstart]' && cosup run configs/quickstart.yaml",
        "pip install '.[test]' && pytest",
    ],
)
def test_commands_that_ci_runs_have_a_line_of_their_own(command: str) -> None:
    assert command in README.splitlines()
    assert command in (ROOT / ".ci" / "run").read_text()


def test_table_has_the_labels_that_a_run_prints() -> None:
    controls = load_config(ROOT / "configs" / "quickstart.yaml").controls
    for name in set(controls) - {"no_filter"}:  # the recipe that is chosen has no filter
        assert re.search(rf"│ {re.escape(CONTROLS[name].label)}[ :]", README)


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_configs_are_described(name: str) -> None:
    """A config's first comment has the command that runs it, and configs/README.md names it."""
    comment = re.match(r"(?:#.*\n)+", (ROOT / "configs" / name).read_text())
    assert comment
    assert f"cosup run configs/{name}" in comment[0]
    stem = name.removesuffix(".yaml")
    overview = (ROOT / "configs" / "README.md").read_text()
    assert any(part in overview for part in (f"`{stem}`", stem, "_" + stem.rpartition("_")[2])), (
        stem
    )
