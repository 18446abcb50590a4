"""A damaged file of a run is never used: it is named, and made again when the run is resumed.

`tests/benchmarks/damage_every_file.py` does the same with every file, one after the other.
"""

import json
import shutil
from pathlib import Path

import pytest
from helpers.damage import HOWS, damage, differences

from cosup.cli import call

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SMALL = [
    "data.limit=120",
    "data.rotations=[0, 90]",
    "teachers.hierarchy.levels=[1, 2]",
    "student.backbone={name: test_resnet.r160_in1k, weights: null, image_size: 32}",
    "student.training.steps=5",
    "teachers.training.steps=5",
    "execution.shard_size=16",
    "rounds={assignment: {name: gate, prior: provenance}}",
    "controls=[best_teacher]",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    path = tmp_path_factory.mktemp("damaged") / "run"
    assert run(path, path.parent / "cache") == 0
    return path


def run(path: Path, cache: Path, *flags: str) -> int:
    settings = [*SMALL, f"execution.cache={cache}", "--output", str(path)]
    return call(["run", str(CONFIG), *settings, *flags])


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def resume(path: Path, whole: Path) -> int:
    return run(path, whole.parent / "cache", "--resume")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("annotations/student_train/domain_rot90/00000.safetensors", "flipped"),
        ("metrics.jsonl", "cut"),
        ("stages/prepared.json", "flipped"),
        (".cosup-run.json", "removed"),
    ],
)
def test_resuming_makes_a_damaged_file_again(
    damaged: Path, whole: Path, name: str, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(damaged / name, how)
    assert call(["verify", str(damaged)]) == 1
    capfd.readouterr()
    assert resume(damaged, whole) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning: " in line]
    assert [name in line for line in warnings].count(True) == 1
    assert list(differences(damaged, whole)) == []
    assert call(["verify", str(damaged)]) == 0


@pytest.mark.slow
def test_many_damaged_files_are_made_again(damaged: Path, whole: Path) -> None:
    for number, path in enumerate(sorted(damaged.rglob("*.safetensors"))):
        damage(path, HOWS[number % 3])
    damage(damaged / "metrics.jsonl", "removed")
    damage(damaged / "config.yaml", "flipped")
    damage(damaged / "decisions/round-2.parquet", "cut")
    damage(damaged / "annotations/manifest.json", "removed")
    assert resume(damaged, whole) == 0
    assert list(differences(damaged, whole)) == []


@pytest.mark.slow
def test_without_its_manifest_a_run_is_computed_again(damaged: Path, whole: Path) -> None:
    (damaged / "manifest.jsonl").unlink()
    assert call(["report", str(damaged), "--text"]) == 1
    assert resume(damaged, whole) == 0
    assert list(differences(damaged, whole)) == []
    assert call(["verify", str(damaged)]) == 0


@pytest.mark.slow
def test_repair_resumes_the_run(damaged: Path, whole: Path) -> None:
    damage(damaged / "checkpoints" / "round-2" / "test.safetensors", "flipped")
    assert call(["verify", str(damaged), "--repair"]) == 0
    assert list(differences(damaged, whole)) == []


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        "decisions/round-1.parquet",
        "checkpoints/round-2/test.safetensors",
        "annotations/test/domain_rot0/00001.safetensors",
    ],
)
@pytest.mark.slow
def test_a_report_names_a_damaged_file_and_the_repair(
    damaged: Path, name: str, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(damaged / name, how)
    code = call(["report", str(damaged), "--output", str(damaged.parent / "index.html")])
    if (name, how) == ("summary.json", "removed"):  # as before it is written
        assert code == 0
        return
    assert code == 1
    line = capfd.readouterr().err.strip()
    assert "\n" not in line
    assert name in line
    assert f"cosup verify {damaged} --repair" in line


@pytest.mark.slow
def test_a_killed_run_has_nothing_to_repair(
    damaged: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As after a kill between the stages `team` and `sources`."""
    lines = (damaged / "manifest.jsonl").read_text().splitlines(keepends=True)
    made = [json.loads(line).get("path") for line in lines]
    cut = made.index("stages/team.json") + 1
    (damaged / "manifest.jsonl").write_text("".join(lines[:cut]))
    later = {name for name in made[cut:] if name} - set(made[:cut])
    for name in later:
        (damaged / name).unlink(missing_ok=True)
    capfd.readouterr()
    assert resume(damaged, whole) == 0
    assert "warning: " not in capfd.readouterr().err.replace("warning: data", "")
    assert list(differences(damaged, whole)) == []
