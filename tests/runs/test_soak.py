"""A run that is killed and damaged again and again ends with the numbers of an undisturbed one."""

import os
import subprocess
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "bench_soak.py"
SMALL = [
    "data.limit=120",
    "student.backbone={name: test_resnet.r160_in1k, weights: null, image_size: 32}",
    "student.training.steps=20",
    "teachers.training.steps=20",
    "controls=[ceiling]",
]


@pytest.mark.slow
def test_kills_and_damages_leave_the_numbers(forks: list[str]) -> None:
    """The short form of the benchmark, which kills 50 times."""
    done = subprocess.run(
        [*forks, str(SOAK), "--kills", "3", "--seed", "1", *SMALL],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("equal")
