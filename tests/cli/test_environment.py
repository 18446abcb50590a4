"""`cosup env` tells what a bug report should, whatever is missing, and no secret."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cosup.cli import call
from cosup.runs import environment


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def machine(capsys: pytest.CaptureFixture[str]) -> Any:
    assert call(["env", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_versions_devices_and_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "outputs" / ".cache"
    cache.mkdir(parents=True)
    (cache / "features").write_bytes(b"x" * 1234)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = machine(capsys)
    assert {"cosup", "torch", "timm", "ray", "numpy"} <= found["packages"].keys()
    assert found["cpu"]["usable"] >= 1
    assert found["threads"] >= 1
    assert found["caches"]["features"]["bytes"] == 1234
    assert found["variables"]["HF_HOME"] == str(tmp_path)
    assert call(["env"]) == 0
    text = capsys.readouterr().out
    assert found["packages"]["torch"] in text
    assert "1 KB" in text


def test_secrets_are_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "HF_HUB_TOKEN": "hunter2",
        "COSUP_PASSWORD": "hunter2",
        "HTTPS_PROXY": "http://me:hunter2@proxy:80",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "UNKNOWN": "hunter2",
    }.items():
        monkeypatch.setenv(name, value)
    found = machine(capsys)["variables"]
    assert "hunter2" not in json.dumps(found)
    assert found["HTTPS_PROXY"].endswith("@proxy:80")
    assert "COSUP_PASSWORD" in found
    assert "UNKNOWN" not in found


def test_extras_are_those_of_the_installed_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["torch>=2", 'nowhere-to_be.found>=1; extra == "far"', "numpy; extra == 'near'"]
    lines += ['pytest; extra == "test"']
    monkeypatch.setattr(environment, "requires", lambda name: lines)
    assert machine(capsys)["extras"] == {"far": ["nowhere-to_be.found"], "near": []}


def test_it_works_without_torch_and_the_hub() -> None:
    script = (
        "import sys; sys.modules['torch'] = sys.modules['huggingface_hub'] = None\n"
        "from cosup.cli import call\n"
        "sys.exit(call(['env', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert (found["threads"], found["devices"], found["offline"]) == (None, [], None)
    assert "torch" in found["no_devices"]
