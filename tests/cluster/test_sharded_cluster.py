"""Tests of sharded runs on a cluster: files of a local run, also where processes and nodes die."""

import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import TwoNodes, wait_until
from helpers.digits_manifest import write_digits, write_manifest
from helpers.guided_shards import LOSSES, guided_config, numbers_of, shards_of, write_guided
from helpers.sharded_config import sharded_config
from helpers.tiny_clip import one_vocabulary
from PIL import Image

from cosup.cluster import decoded_apart, run_with_backend
from cosup.config.schema import Config
from cosup.errors import RunError
from cosup.remote import Place
from cosup.runs.verify import verify

pytestmark = pytest.mark.ray

ROWS, LABELLED = 900, 400
ACTORS = {"teachers": {"actors": 1}, "features": {"actors": 1}, "shards": {"actors": 2}}
FUSED = {
    "assignment": "fused",
    "refine": {"name": "product", "rounds": 1},
    # The first ranks all samples; the second trains students.
    "consistency": [
        {"name": "teacher_student", "k": 2},
        {"name": "local_global", "divergence": 0.3},
    ],
}
SHIFTED = {
    "shifted": {
        "noisy": {"corruption": "noise", "limit": 20},
        "turned": {"source": {"name": "digits", "rotations": [45]}, "limit": 20},
    }
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    labels = write_digits(folder / "images", 500)
    return write_manifest(folder / "rows", labels, ROWS, LABELLED, files=2)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Ray Data little time to replace actors that died."""
    monkeypatch.setattr(decoded_apart, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(decoded_apart, "REPLACE_SECONDS", 2.0)


def test_a_run_at_a_uri_has_the_files_of_a_local_run(nodes: TwoNodes, tmp_path: Path) -> None:
    """With tables, two losses, labels, and an untrained student that guides. Images are decoded
    apart. Shards are not copied to this machine, and are there again when the run is resumed."""
    write_guided(tmp_path)
    on_ray = {"backend": "ray", "address": nodes.address, "decode": "apart", **ACTORS}
    place, run = Place(f"file://{tmp_path}/run"), tmp_path / "run"

    def config(**execution: Any) -> Config:
        return guided_config(tmp_path, data=SHIFTED, rounds=FUSED, execution=execution)

    with one_vocabulary():
        expected = numbers_of(run_with_backend(config(), tmp_path / "local"))
        assert numbers_of(run_with_backend(config(**on_ray), place)) == expected
        assert shards_of(run) == shards_of(tmp_path / "local")
        assert all(verify(f"{place.uri}/{loss}").is_whole for loss in LOSSES)
        (run / "summary.json").unlink()
        stamps = {path: path.stat().st_mtime_ns for path in run.glob("*/shards/**/*.parquet")}
        assert numbers_of(run_with_backend(config(**on_ray), place, resume=True)) == expected
    assert stamps
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def taught(source: str, module: str, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write a module with the function `teach` into the working directory; return the section of a
    config whose only teacher it is."""
    Path(f"{module}.py").write_text(source)
    patch.syspath_prepend(str(Path.cwd()))
    model = {"name": f"call:{module}:teach", "image_size": 16}
    return {"hierarchy": {"by": "class", "levels": [1]}, "model": model}


# A teacher that is slow while the file `orders` is there, dies once at a white image, and fails at
# a black one.
FRAGILE = """
import os, signal, time
from pathlib import Path
import torch

def teach(images):
    if Path("orders").exists():
        time.sleep(0.3)
        for image in images:
            if bool((image == image.flatten()[0]).all()):
                if image.flatten()[0] < 0.5:
                    raise ValueError("not this one")
                if not Path("died").exists():
                    Path("died").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
    return torch.full((len(images), 10), 0.1)
"""
WHITE, BLACK = 410, 460
"""Numbers of images of one colour, each of one sample of student_train."""


@pytest.fixture
def plain(manifest: Path, tmp_path: Path) -> Path:
    """Return a manifest with two images of one colour."""
    shutil.copytree(manifest.parent, tmp_path / "copy")
    for number, colour in {WHITE: 255, BLACK: 0}.items():
        Image.new("L", (8, 8), colour).save(tmp_path / "copy" / "images" / f"{number:04d}.png")
    return tmp_path / "copy" / manifest.name


def test_a_run_survives_deaths_and_tells_the_shard_that_fails(
    nodes: TwoNodes, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor and a node die, and one shard fails in every try. The others are done, and it is
    told with its samples. Resumed without the failure, the run has the files of a local one."""
    monkeypatch.chdir(tmp_path)
    teachers = taught(FRAGILE, "failing_teacher", monkeypatch)

    def config(**execution: Any) -> Config:
        return sharded_config(plain, teachers=teachers, execution={"shard_size": 50, **execution})

    expected = numbers_of(run_with_backend(config(), tmp_path / "local"))
    settings = {**ACTORS, "teachers": {"actors": 2}, "decode": "apart", "tries": 2}
    asked = config(backend="ray", address=nodes.address, **settings)
    (tmp_path / "orders").touch()
    annotations = tmp_path / "run" / "shards" / "annotations"

    def kill() -> None:
        wait_until(lambda: len(list(annotations.rglob("*.parquet"))) > 2, "nothing done", 120)
        nodes.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RunError) as caught:
        run_with_backend(asked, tmp_path / "run")
    killer.join()
    assert nodes.second is None
    assert (tmp_path / "died").exists()
    assert re.search(r"shard \d+: failed after 2 tries", str(caught.value))
    assert "ValueError: not this one" in str(caught.value)
    assert f"sample-{BLACK // 50 * 50:07d}" in str(caught.value)
    assert len(list(annotations.rglob("*.parquet"))) == (ROWS - LABELLED) / 50 - 1
    (tmp_path / "orders").unlink()
    assert numbers_of(run_with_backend(asked, tmp_path / "run", resume=True)) == numbers_of(
        expected
    )
    assert shards_of(tmp_path / "run") == shards_of(tmp_path / "local")


# A teacher whose process dies in its first call.
MORTAL = """
import os, signal
from pathlib import Path
import torch

def teach(images):
    if not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.full((len(images), 10), 0.1)
"""


def test_shards_are_left_to_others_when_the_last_actor_of_ray_data_dies(
    nodes: TwoNodes, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Data then waits for it for ever."""
    monkeypatch.setattr(decoded_apart, "START_SECONDS", 600.0)  # longer than the run
    monkeypatch.chdir(tmp_path)
    teachers = taught(MORTAL, "mortal_teacher", monkeypatch)

    def config(**execution: Any) -> Config:
        return sharded_config(manifest, teachers=teachers, controls=[], execution=execution)

    (tmp_path / "died").touch()
    expected = numbers_of(run_with_backend(config(), tmp_path / "local"))
    (tmp_path / "died").unlink()
    settings = {"decode": "apart", "shard_timeout": 60, **ACTORS}
    asked = config(backend="ray", address=nodes.address, **settings)
    started = time.monotonic()
    assert numbers_of(run_with_backend(asked, tmp_path / "run")) == expected
    assert (tmp_path / "died").exists()
    assert time.monotonic() - started < decoded_apart.START_SECONDS
