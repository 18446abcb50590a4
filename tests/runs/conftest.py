"""A finished run on annotated digits, for tests of what is done with it."""

import shutil
from pathlib import Path

import pytest
from helpers.annotated_folder import make_world

import cosup.runs.pipeline  # so that `no_pages` and `seeds_in_turn` find it
from cosup.cli import call


@pytest.fixture(scope="session")
def annotated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of digits, tables of two annotators, and a finished run in `runs/reviewed`.

    Tests write to copies of it.
    """
    root = tmp_path_factory.mktemp("annotated")
    make_world(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(cosup.runs.pipeline, "write_report", lambda run, **_: run.path)
        assert call(["run", "config.yaml"]) == 0
    return root


@pytest.fixture
def world(annotated_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run in a copy of the annotated folder, which is the working directory."""
    root = tmp_path / "world"
    shutil.copytree(annotated_folder, root)
    monkeypatch.chdir(root)
    return root / "runs" / "reviewed"
