"""Test the READMEs: their Python runs, their configs validate, and they have CI's commands.

tests/test_methods.py checks their links and the files that they name.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cosup.config import check_config, load_config
from cosup.config.files import BENCH
from cosup.controls import CONTROLS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLUSTERS = (ROOT / "ray_jobs" / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_python_on_arrays_runs_and_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (code for code in blocks("python") if "CoSupervision" in code)
    exec(compile(code, "README", "exec"), {})
    labels, student = (f"{100 * float(share):.1f} %" for share in capsys.readouterr().out.split())
    (told,) = re.findall(r"\n([0-9.]+ %) of its labels are right,.* labels ([0-9.]+ %) of", README)
    assert (labels, student) == told


@pytest.mark.slow
def test_python_on_runs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (code for code in blocks("python") if "cosup.run(" in code)
    fast = '"controls=[]", "student.training.steps=20", "rounds={}", '
    fast += '"student.backbone={name: test_resnet.r160_in1k, weights: null, image_size: 32}"'
    assert '"controls=[]"' in code
    found: dict[str, Any] = {}
    exec(compile(code.replace('"controls=[]"', fast), "README", "exec"), found)
    assert capsys.readouterr().out
    run, labels = found["run"], found["labels"]
    assert len(labels) == run.summary["data"]["samples"]["student_train"]


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
    for name in set(controls) - {"no_filter", "plain_loss"}:  # the chosen recipe has neither
        assert re.search(rf"│ {re.escape(CONTROLS[name].label)}[ :]", README)


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_configs_are_described(name: str) -> None:
    """A config's first comment has the command that runs it, and configs/README.md names it."""
    comment = re.match(r"(?:#.*\n)+", (ROOT / "configs" / name).read_text())
    assert comment
    verb = "bench" if name.startswith(BENCH) else "run"
    assert f"cosup {verb} configs/{name}" in comment[0]
    stem = name.removesuffix(".yaml")
    overview = (ROOT / "configs" / "README.md").read_text()
    assert any(part in overview for part in (f"`{stem}`", stem, "_" + stem.rpartition("_")[2])), (
        stem
    )
