"""Runs drawn at random, made once."""

from pathlib import Path

import pytest
from helpers.made_run import Shape, make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, four classes, a generalist and two specialists, label noise."""
    return make_run(tmp_path_factory.mktemp("made") / "run", Shape(noise=0.2))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many classes that probabilities are stored compactly; three levels; several shards."""
    shape = Shape(
        classes=[f"class {number}" for number in range(70)],
        domains=("all",),
        levels=(1, 3, 6),
        train=5000,
        test=600,
    )
    return make_run(tmp_path_factory.mktemp("large") / "run", shape)


@pytest.fixture(scope="session", params=["made", "large"])
def path(request: pytest.FixtureRequest) -> Path:
    """Each of the two in turn."""
    found: Path = request.getfixturevalue(request.param)
    return found
