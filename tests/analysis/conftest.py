"""Two run directories with random content, written once per session."""

from pathlib import Path

import pytest
from helpers.synthetic_run import Shape, make_run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with two domains, four classes, a generalist, two specialists and label noise."""
    return make_run(tmp_path_factory.mktemp("small") / "run", Shape(noise=0.2))


@pytest.fixture(scope="session")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with three levels, several shards, and enough classes for compact storage."""
    shape = Shape(
        classes=[f"class {number}" for number in range(70)],
        domains=("all",),
        levels=(1, 3, 6),
        train=5000,
        test=600,
    )
    return make_run(tmp_path_factory.mktemp("large") / "run", shape)


@pytest.fixture(scope="session", params=["small_run", "large_run"])
def path(request: pytest.FixtureRequest) -> Path:
    """Each of the two runs in turn."""
    found: Path = request.getfixturevalue(request.param)
    return found
