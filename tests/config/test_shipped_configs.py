"""Shipped configs are found by name from any folder, and their copies work."""

import errno
import shutil
from pathlib import Path

import pytest
from helpers.user_errors import error_of

from cosup.cli import call
from cosup.config import load_config
from cosup.config.files import copy_shipped, read_shipped, shipped_configs

EVERY = {path.stem: path for path in (Path(__file__).parents[2] / "configs").glob("*.yaml")}
CONFIGS = {name: path for name, path in EVERY.items() if name != "bench"}
MINE = "data: {source: digits}\nstudent: {backbone: {name: resnet18, weights: null}}\n"


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working directory."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_copy_is_word_for_word_and_the_same_config(name: str) -> None:
    original = CONFIGS[name].read_bytes()
    assert read_shipped(name).encode() == original
    assert copy_shipped(name, Path("mine/my.yaml")).read_bytes() == original
    assert load_config("mine/my.yaml") == load_config(name) == load_config(CONFIGS[name])


def test_a_copy_may_have_the_name_of_its_base() -> None:
    name = "fashion_mnist_cpl_adaptconf"
    copy_shipped(name, Path("fashion_mnist_cpl.yaml"))
    assert load_config("fashion_mnist_cpl.yaml") == load_config(name)


def test_a_changed_copy_of_the_base_is_the_base_of_copies_beside_it() -> None:
    copy_shipped("fashion_mnist_cpl", Path())
    copy_shipped("fashion_mnist_cpl_adaptconf", Path())
    base = Path("fashion_mnist_cpl.yaml")
    base.write_text(base.read_text().replace("seed: 0", "seed: 7"))
    assert load_config("fashion_mnist_cpl_adaptconf.yaml").run.seed == 7
    assert load_config("fashion_mnist_cpl").run.seed == 0  # the name alone is no file here


@pytest.mark.parametrize("base", ["quickstart", "quickstart.yaml"])
def test_a_config_extends_a_shipped_one_by_name(base: str) -> None:
    Path("my.yaml").write_text(f"base: {base}\nrun: {{seed: 3}}\n")
    assert load_config("my.yaml") == load_config("quickstart", "run.seed=3")
    Path(base).write_text(MINE)
    assert load_config("my.yaml") == load_config(base, "run.seed=3")  # a file comes first
    assert load_config("my.yaml").run.name != "quickstart"


def test_a_file_comes_before_a_name_and_a_folder_does_not(empty: Path) -> None:
    (empty / "quickstart").mkdir()
    assert load_config("quickstart").run.name == "quickstart"
    (empty / "quickstart.yaml").write_text(MINE)
    assert load_config("quickstart.yaml").student.backbone.name == "resnet18"
    assert load_config("quickstart") == load_config(CONFIGS["quickstart"])


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml"])
def test_commands_take_a_name(name: str, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", name, "run.seed=5", "--print-config"]) == 0
    assert "seed: 5" in capsys.readouterr().out
    assert call(["cat", name]) == 0
    assert capsys.readouterr().out == CONFIGS["quickstart"].read_text()
    assert call(["validate", name]) == 0
    assert call(["plan", name]) == 0
    assert content(empty) == []
    assert call(["cp", name, "my.yaml"]) == 0
    assert capsys.readouterr().err == ""
    assert content(empty) == ["my.yaml"]


def test_ls_lists_each_config_once(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["ls", "configs"]) == 0
    listed = capsys.readouterr().out
    names = [line.split()[0] for line in listed.splitlines()[1:] if line.startswith("  ")]
    assert [name for name in names if name in CONFIGS] == sorted(CONFIGS)
    shutil.copytree(CONFIGS["quickstart"].parent, empty / "configs")  # as in a checkout
    assert call(["ls", "configs"]) == 0
    assert capsys.readouterr().out == listed


@pytest.mark.parametrize("verb", ["run", "validate", "plan"])
@pytest.mark.parametrize("given", ["quickstat", "quick_start.yaml", "configs/quickstart.yaml"])
def test_an_unknown_config_is_one_line_with_the_nearest_name(
    verb: str, given: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([verb, given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert given in line
    assert "did you mean 'quickstart'?" in line
    assert content(empty) == []


@pytest.mark.parametrize("command", [["cat"], ["cp", "my.yaml"]], ids=["cat", "cp"])
@pytest.mark.parametrize("name", ["quickstat", "quickstart/", "", ".", "..", "\0", "x" * 5000])
def test_cat_and_cp_of_an_unknown_name(
    command: list[str], name: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = name == "quickstart/"
    assert call([command[0], name, *command[1:]]) == (0 if known else 2)
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == (0 if known else 1)
    assert known or captured.out == ""
    assert known or content(empty) == []


def test_a_near_file_is_offered_too() -> None:
    Path("quickstart_2.yaml").write_text(MINE)
    assert error_of(load_config, "quickstart_3.yaml").nearest == (
        "quickstart_2.yaml",
        "quickstart",
    )


def test_cp_replaces_nothing(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty / "my.yaml").write_text("mine")
    (empty / "nowhere.yaml").symlink_to("none.yaml")
    (empty / "folder").mkdir()
    (empty / "folder" / "quickstart.yaml").write_text("mine")
    before = content(empty)
    for target in ("my.yaml", "nowhere.yaml", "folder", "my.yaml/in.yaml", "x" * 300 + ".yaml"):
        assert call(["cp", "quickstart", target]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert target in line
        assert captured.out == ""
    assert content(empty) == before
    assert content(empty / "folder") == ["quickstart.yaml"]
    assert (empty / "my.yaml").read_text() == "mine"


def test_cp_leaves_nothing_where_it_cannot_write(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    assert error_of(copy_shipped, "quickstart", Path("my.yaml")).where == "my.yaml"
    assert content(empty) == []


def test_without_shipped_configs_files_still_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the nodes of a cluster, the package of a source tree comes without `configs/`."""
    monkeypatch.setattr("cosup.config.files._PACKAGE", Path("gone/cosup"))
    assert shipped_configs() == {}
    Path("my.yaml").write_text(MINE)
    assert load_config("my.yaml").data.source.name == "digits"
    assert error_of(load_config, "quickstart").nearest == ()
