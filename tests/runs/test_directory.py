"""A run directory has one writer, refuses other runs, and keeps finished stages."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cosup.config import Config, check_config
from cosup.errors import RunError, UserError
from cosup.layout import LOCK, MARKER, Layout
from cosup.runs.directory import RunDirectory


def config(**rounds: Any) -> Config:
    return check_config(
        {
            "data": {"source": "digits"},
            "student": {"backbone": {"name": "resnet18"}},
            "rounds": rounds,
        }
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def start(path: Path) -> None:
    with RunDirectory.open(path, config()) as run:
        run.finish("teachers", {"seconds": 0.1 + 0.2})


def test_a_new_run_has_its_config(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with RunDirectory.open(path, config()) as run:
        assert not run.resumed
        assert "digits" in (path / "config.yaml").read_text()
        assert Layout(path).is_run()


def test_stages_are_restored_exactly(tmp_path: Path) -> None:
    start(tmp_path / "r")
    with RunDirectory.open(tmp_path / "r", config(), resume=True) as run:
        assert run.resumed
        assert run.is_done("teachers")
        assert run.load("teachers") == {"seconds": 0.1 + 0.2}
        assert not run.is_done("rounds")
        with pytest.raises(RunError, match=r"rounds.json"):
            run.load("rounds")


def test_an_existing_run_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "r"
    start(path)
    before = tree(path)
    with pytest.raises(UserError, match="exists and is not empty; --resume continues"):
        RunDirectory.open(path, config()).__enter__()
    assert tree(path) == before


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_other_folders_are_never_modified(tmp_path: Path, flags: dict[str, bool]) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    before = tree(tmp_path)
    with (
        pytest.raises(UserError, match=str(tmp_path)),
        RunDirectory.open(tmp_path, config(), **flags),
    ):
        pytest.fail("opened")
    assert tree(tmp_path) == before


def test_overwrite_replaces_a_run(tmp_path: Path) -> None:
    path = tmp_path / "r"
    start(path)
    with RunDirectory.open(path, config(repeat=2), overwrite=True) as run:
        assert not run.is_done("teachers")
        assert not run.resumed
    with RunDirectory.open(path, config(repeat=2), resume=True):
        pass


def test_overwrite_does_not_follow_links(tmp_path: Path) -> None:
    path, shared = tmp_path / "r", tmp_path / "shared"
    shared.mkdir()
    (shared / "features").write_text("precious")
    start(path)
    (path / "features").symlink_to(shared)
    with RunDirectory.open(path, config(), overwrite=True):
        pass
    assert (shared / "features").read_text() == "precious"


def test_resume_names_changed_settings(tmp_path: Path) -> None:
    path = tmp_path / "r"
    start(path)
    with pytest.raises(
        UserError, match=r'changed: rounds.targets: "soft" -> "hard"; rounds.repeat: "auto" -> 3 '
    ):
        RunDirectory.open(path, config(repeat=3, targets="hard"), resume=True).__enter__()


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "r", config(), resume=True) as run:
        assert not run.resumed


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        RunDirectory.open(tmp_path / "r", config(), resume=True, overwrite=True).__enter__()
    assert not (tmp_path / "r").exists()


HOLD = """
import sys
sys.path.insert(0, {folder!r})
from test_directory import config
from cosup.runs.directory import RunDirectory
with RunDirectory.open({path!r}, config()) as run:
    run.finish("teachers")
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "r"
    script = HOLD.format(folder=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        before = tree(path)
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            with (
                pytest.raises(UserError, match=f"written by another run .process {other.pid}"),
                RunDirectory.open(path, config(), **flags),
            ):
                pytest.fail("opened")
        assert tree(path) == before
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    with RunDirectory.open(path, config(), resume=True) as run:
        assert run.is_done("teachers")


def test_the_folder_of_a_run_killed_at_its_start_is_reused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.mkdir()
    (path / LOCK).write_text("123\n")
    (path / f".{MARKER}.123.cosup-tmp").write_text("{")
    with RunDirectory.open(path, config()):
        assert not list(path.glob("*.cosup-tmp"))


def test_files_where_a_folder_belongs(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        with pytest.raises(UserError, match="is a file"):
            RunDirectory.open(path, config()).__enter__()


def test_unwritable_paths() -> None:
    with pytest.raises(UserError, match=r"run directory /proc/none/r: cannot be made"):
        RunDirectory.open("/proc/none/r", config()).__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be made"):
            RunDirectory.open(tmp_path / "r", config()).__enter__()
    finally:
        tmp_path.chmod(0o700)


def test_an_early_mistake_leaves_no_partial_run(tmp_path: Path) -> None:
    path = tmp_path / "a" / "r"

    def mistaken() -> None:
        with RunDirectory.open(path, config()) as run:
            run.folder(run.files.annotations.folder)
            run.finish("data", {"seconds": 1.0})
            raise UserError("data.root: no such folder")

    with pytest.raises(UserError, match=r"data\.root"):
        mistaken()
    assert list(tmp_path.iterdir()) == []


def test_a_late_mistake_keeps_finished_stages(tmp_path: Path) -> None:
    path = tmp_path / "r"

    def mistaken() -> None:
        with RunDirectory.open(path, config()):
            with RunDirectory.open(path / "seed-0", config()) as one:
                one.finish("teachers")
            raise UserError("a.csv: row 3")

    with pytest.raises(UserError) as caught:
        mistaken()
    assert (path / "seed-0" / "stages" / "teachers.json").exists()
    assert "--resume" in caught.value.__notes__[-1]


def test_a_failure_is_logged_and_its_note_names_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with pytest.raises(ZeroDivisionError) as caught, RunDirectory.open(path, config()):
        raise ZeroDivisionError("oops")
    assert str(Layout(path).log) in caught.value.__notes__[0]
    assert "ZeroDivisionError: oops" in (Layout(path).log).read_text()
    assert "Traceback" in (Layout(path).log).read_text()


def test_a_damaged_stage_is_named(tmp_path: Path) -> None:
    start(tmp_path / "r")
    (tmp_path / "r" / "stages" / "teachers.json").write_text("{")
    with (
        RunDirectory.open(tmp_path / "r", config(), resume=True) as run,
        pytest.raises(RunError, match=r"teachers.json is damaged"),
    ):
        run.load("teachers")


def test_the_marker_is_json(tmp_path: Path) -> None:
    start(tmp_path / "r")
    assert set(json.loads((tmp_path / "r" / MARKER).read_text())) == {"format", "config_hash"}
