"""Tests of sharded runs on a cluster: files of a local run, also where processes and nodes die."""

from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import TwoNodes
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config

from cosup.cluster import run_with_backend

pytestmark = pytest.mark.ray

ROWS, LABELLED = 900, 400
ACTORS = {"teachers": {"actors": 1}, "features": {"actors": 1}, "shards": {"actors": 2}}
NOT_COMPARED = ("seconds", "peak_rss_mb", "run")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    labels = write_digits(folder / "images", 500)
    return write_manifest(folder / "rows", labels, ROWS, LABELLED, files=2)


@pytest.fixture(scope="module")
def local(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a local run, and its summary."""
    folder = tmp_path_factory.mktemp("local") / "run"
    return folder, run_with_backend(sharded_config(manifest), folder)


def compared(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in NOT_COMPARED}


def shards_of(run: Path) -> dict[str, bytes]:
    """Return the content of every file of shards."""
    folder = run / "shards"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


@pytest.mark.parametrize("decode", ["actors", "apart"])
def test_files_are_those_of_a_local_run(
    nodes: TwoNodes, manifest: Path, local: tuple[Path, Any], tmp_path: Path, decode: str
) -> None:
    folder, expected = local
    execution = {"backend": "ray", "address": nodes.address, "decode": decode, **ACTORS}
    found = run_with_backend(sharded_config(manifest, execution=execution), tmp_path / "run")
    assert compared(found) == compared(expected)
    assert shards_of(tmp_path / "run") == shards_of(folder)
