"""Tests of where workers keep the states of trainings."""

from pathlib import Path

import pytest
from cluster_helpers import TwoNodes
from helpers.user_errors import error_of

from cosup import remote
from cosup.cluster import storage
from cosup.cluster.storage import RunStorage, check_shared
from cosup.files import user_cache


def test_what_belongs_to_a_run_is_found_at_its_place(tmp_path: Path) -> None:
    local = RunStorage.of(str(tmp_path / "my runs" / "ä"))
    path = local.folder / "checkpoints" / "net.state"
    assert local.uri_of(path) == f"file://{path}"
    far = RunStorage.of("s3://bucket/runs/one?region=x")
    assert far.folder.is_relative_to(user_cache())
    found = far.uri_of(far.folder / "seed-1" / "checkpoints")
    assert found == "s3://bucket/runs/one/seed-1/checkpoints?region=x"
    assert far.uri_of(tmp_path) == f"file://{tmp_path}"
    path.parent.mkdir(parents=True)
    (tmp_path / "file").write_text("state")
    remote.put(tmp_path / "file", local.uri_of(path))
    assert path.read_text() == "state"


@pytest.mark.ray
def test_a_folder_that_a_node_does_not_see(
    nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "runs" / "one")
    check_shared(place)  # both nodes are this machine
    monkeypatch.setattr(storage, "_see", lambda _, others: [False for _ in others])
    error = error_of(check_shared, place)
    assert (error.key, error.value) == (("run", "output"), place)
    check_shared("s3://bucket/runs/one")
    assert list(tmp_path.iterdir()) == []
