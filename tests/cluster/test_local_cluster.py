"""A cluster that is started for a run is closed to others, and leaves nothing behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cosup.cluster.local_cluster import FOLDER, MODE, TOKEN, private_session

NAMES = (FOLDER, MODE, TOKEN)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)


def test_the_folder_is_private_and_ends_with_the_session() -> None:
    """The token stays: Ray reads it once per process."""
    found = []
    for _ in range(2):
        with private_session():
            folder = Path(os.environ[FOLDER])
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "file").write_text("")
            found.append(os.environ[TOKEN])
        assert not folder.exists()
        assert FOLDER not in os.environ
    assert found[0] == found[1]
    assert len(found[0]) >= 32


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(MODE, "disabled")
    with private_session():
        assert (os.environ[FOLDER], os.environ[MODE]) == (str(tmp_path), "disabled")
        assert TOKEN not in os.environ
    assert tmp_path.exists()
    assert os.environ[MODE] == "disabled"


SCRIPT = """
import os
from cosup.cluster.session import connected
from cosup.config.schema import ExecutionSection

def answer(*metadata):
    import grpc, ray
    method = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
    with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
        try:
            return channel.unary_unary(method)(b"", metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            return error.code().name

with connected(ExecutionSection(backend="ray")):
    import ray
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    folder = os.environ["RAY_TMPDIR"]
    assert os.listdir(folder)
    assert answer() == "UNAUTHENTICATED"
    assert len(answer(("authorization", "Bearer " + os.environ["RAY_AUTH_TOKEN"]))) > 20
assert not os.path.exists(folder)
"""


@pytest.mark.ray
def test_a_session_demands_its_token_and_writes_none(forks: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("RAY_ADDRESS", None)
    script = tmp_path / "sessions.py"
    script.write_text(SCRIPT)
    subprocess.run([*forks, str(script)], env=environment, check=True, timeout=240)
    assert not (tmp_path / ".ray" / "auth_token").exists()
