"""The wheel contains every file of cosup and the shipped configs, which work once installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "cosup"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def files_of_the_package() -> list[Path]:
    return [path for path in HOUSE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the content of the wheel, built from a copy of the source tree."""
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77 to build")
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("cosup", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    script = "import sys, setuptools.build_meta as build\nbuild.build_wheel(sys.argv[1])"
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    site = tmp_path_factory.mktemp("site")
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_the_wheel_has_every_file_and_config(installed: Path) -> None:
    for path in files_of_the_package():
        assert (installed / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    folder = installed / "cosup" / "configs"
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in CONFIGS]
    for path in CONFIGS:
        assert (folder / path.name).read_bytes() == path.read_bytes()
    (information,) = {path.name for path in installed.iterdir()} - {"cosup"}
    assert information.endswith(".dist-info")  # nothing else lands beside the package


def test_the_installed_command_knows_the_configs(installed: Path, tmp_path: Path) -> None:
    def cosup(*arguments: str) -> subprocess.CompletedProcess[str]:
        # The installed package comes before the source tree, wherever that is on the path.
        script = f"import sys; sys.path.insert(0, {str(installed)!r}); import cosup.cli as c\n"
        script += "assert c.__file__.startswith(sys.path[0]); c.main()"
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
        )

    assert cosup("cat", "quickstart").stdout == (ROOT / "configs/quickstart.yaml").read_text()
    copied = cosup("cp", "fashion_mnist_cpl_adaptconf", "my.yaml")
    assert (copied.returncode, copied.stderr) == (0, "")
    assert cosup("run", "my.yaml", "--print-config").returncode == 0
    assert cosup("run", "quickstat").returncode == 2
