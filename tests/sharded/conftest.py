"""Fixtures: a manifest of digits, opened as shards."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from annotated_shards import Sharded
from helpers.digits_manifest import write_digits, write_manifest
from sharded_world import LABELLED, ROWS, SHARD, Open, World

import cosup.runs.pipeline  # noqa: F401, so that `no_pages` finds it
from cosup.config.schema import Config
from cosup.sharded.opening import open_shards


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with digits in `images`, and a manifest in `rows` of three files; in `known`
    one whose samples have a label, those of student_train as well."""
    folder = tmp_path_factory.mktemp("digits")
    labels = write_digits(folder / "images", 500)
    write_manifest(folder / "rows", labels, ROWS, LABELLED, files=3)
    write_manifest(folder / "known", labels, ROWS, LABELLED, truth=True)
    return folder


@pytest.fixture(scope="session")
def opened(digits: Path) -> Open:
    """Return a function that opens a manifest, by default that of `digits`."""

    def open_one(
        path: Path = digits / "rows", model: Any = None, steps: int = 30, **data: Any
    ) -> World:
        config = Config.model_validate(
            {
                "data": {"source": "manifest", "path": str(path), "sharded": True, **data},
                "teachers": {
                    "hierarchy": {"by": "class", "levels": [1, 2]},
                    "model": model or {"name": "linear_pixels", "size": 8},
                    "training": {"steps": steps, "batch_size": 32},
                },
                "student": {"backbone": {"name": "test_resnet", "weights": None, "image_size": 32}},
            }
        )
        return World(config, *open_shards(config.data, 0, SHARD))

    return open_one


@pytest.fixture(scope="session")
def annotated(opened: Open, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Sharded]:
    """Return a function that annotates a manifest, each once. Tests write to copies of it."""
    made = cache(lambda path: Sharded(opened(path), tmp_path_factory.mktemp("annotated")))
    return lambda path: made(path)


@pytest.fixture
def sharded(annotated: Callable[[Path], Sharded], digits: Path, tmp_path: Path) -> Sharded:
    return annotated(digits / "rows").copied(tmp_path / "store")


@pytest.fixture
def known(annotated: Callable[[Path], Sharded], digits: Path, tmp_path: Path) -> Sharded:
    """Return shards whose samples have a label."""
    return annotated(digits / "known").copied(tmp_path / "store")
