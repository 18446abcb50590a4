"""Tests of sharded runs on a cluster: files of a local run, also where processes and nodes die."""

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import TwoNodes, wait_until
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config
from PIL import Image

from cosup.cluster import run_with_backend
from cosup.config.schema import Config
from cosup.errors import RunError
from cosup.remote import Place
from cosup.runs.verify import verify

FragileConfig = Callable[..., Config]

pytestmark = pytest.mark.ray

ROWS, LABELLED = 900, 400
ACTORS = {"teachers": {"actors": 1}, "features": {"actors": 1}, "shards": {"actors": 2}}
NOT_COMPARED = ("seconds", "peak_rss_mb", "run")
REFINED: dict[str, Any] = {
    "refine": {"name": "product", "rounds": 1},
    "consistency": [{"name": "teacher_student", "k": 2}],  # ranks of all samples
}
FUSED = {
    **REFINED,
    "assignment": "fused",
    "consistency": [*REFINED["consistency"], {"name": "local_global", "divergence": 0.3}],
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


@pytest.fixture(scope="module")
def local(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a local run, and its summary."""
    folder = tmp_path_factory.mktemp("local") / "run"
    return folder, run_with_backend(sharded_config(manifest, data=SHIFTED, rounds=FUSED), folder)


def compared(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in NOT_COMPARED}


def shards_of(run: Path) -> dict[str, bytes]:
    """Return the content of every file of shards."""
    folder = run / "shards"
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


def test_images_decoded_apart_give_the_files_of_a_local_run(
    nodes: TwoNodes, manifest: Path, local: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, expected = local
    execution = {"backend": "ray", "address": nodes.address, "decode": "apart", **ACTORS}
    config = sharded_config(manifest, data=SHIFTED, rounds=FUSED, execution=execution)
    found = run_with_backend(config, tmp_path / "run")
    assert compared(found) == compared(expected)
    assert shards_of(tmp_path / "run") == shards_of(folder)


def test_shards_are_written_to_the_uri_of_a_run(
    nodes: TwoNodes, manifest: Path, local: tuple[Path, Any], tmp_path: Path
) -> None:
    """They are not copied to this machine, and are there again when the run is resumed. The images
    are decoded by the actors."""
    folder, expected = local
    execution = {"backend": "ray", "address": nodes.address, "decode": "actors", **ACTORS}
    config = sharded_config(manifest, data=SHIFTED, rounds=FUSED, execution=execution)
    place = Place(f"file://{tmp_path}/run")
    assert compared(run_with_backend(config, place)) == compared(expected)
    assert shards_of(tmp_path / "run") == shards_of(folder)
    assert verify(place.uri).is_whole
    (tmp_path / "run" / "summary.json").unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "shards").rglob("*")}
    assert compared(run_with_backend(config, place, resume=True)) == compared(expected)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


# A teacher that does what the file `orders` says: of an image of one colour, or of all images.
FRAGILE = """
import os, signal, time
from pathlib import Path
import torch

def teach(images):
    orders = Path("orders").read_text().split() if Path("orders").exists() else []
    if "slow" in orders:
        time.sleep(0.3)
    if any(bool((image == image.flatten()[0]).all()) for image in images):
        if "fail" in orders:
            raise ValueError("not this one")
        if "die" in orders:
            Path("orders").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return torch.full((len(images), 10), 0.1)
"""
PLAIN = 450
"""Number of the image of one colour, which one sample of student_train has."""


@pytest.fixture(scope="module")
def plain(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest with an image of one colour."""
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(manifest.parent, folder / "copy")
    Image.new("L", (8, 8), 255).save(folder / "copy" / "images" / f"{PLAIN:04d}.png")
    return folder / "copy" / manifest.name


@pytest.fixture
def fragile(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FragileConfig:
    """Return a function that makes a config with the teacher, which works in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders_teacher.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**execution: Any) -> Config:
        model = {"name": "call:orders_teacher:teach", "image_size": 16}
        teachers = {"hierarchy": {"by": "class", "levels": [1]}, "model": model}
        execution = {"shard_size": 50, **execution}
        return sharded_config(plain, teachers=teachers, execution=execution)

    return make


def test_a_shard_that_fails_is_told_with_its_samples_and_the_others_are_there(
    nodes: TwoNodes, fragile: FragileConfig, tmp_path: Path
) -> None:
    expected = run_with_backend(fragile(), tmp_path / "local")
    ray = {"backend": "ray", "address": nodes.address, "decode": "apart", "tries": 2, **ACTORS}
    (tmp_path / "orders").write_text("fail")
    with pytest.raises(RunError) as caught:
        run_with_backend(fragile(**ray), tmp_path / "run")
    assert re.search(r"shard \d+: failed after 2 tries", str(caught.value))
    assert "ValueError: not this one" in str(caught.value)
    assert f"sample-{PLAIN // 50 * 50:07d}" in str(caught.value)
    files = list((tmp_path / "run" / "shards" / "annotations").rglob("*.parquet"))
    assert len(files) == (ROWS - LABELLED) / 50 - 1
    (tmp_path / "orders").unlink()
    found = run_with_backend(fragile(**ray), tmp_path / "run", resume=True)
    assert compared(found) == compared(expected)


def test_a_run_survives_the_death_of_an_actor_and_of_a_node(
    nodes: TwoNodes, fragile: FragileConfig, tmp_path: Path
) -> None:
    expected = run_with_backend(fragile(), tmp_path / "local")
    actors = {**ACTORS, "teachers": {"actors": 2}}
    ray = {"backend": "ray", "address": nodes.address, "decode": "apart", **actors}
    (tmp_path / "orders").write_text("slow die")
    annotations = tmp_path / "run" / "shards" / "annotations"

    def kill() -> None:
        wait_until(lambda: len(list(annotations.rglob("*.parquet"))) > 2, "nothing done", 120)
        nodes.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    found = run_with_backend(fragile(**ray), tmp_path / "run")
    killer.join()
    assert nodes.second is None
    assert compared(found) == compared(expected)
    assert shards_of(tmp_path / "run") == shards_of(tmp_path / "local")


def test_a_network_learns_from_shards_where_it_is_trained(
    nodes: TwoNodes, manifest: Path, tmp_path: Path
) -> None:
    backbone = {"name": "cifar_resnet8", "weights": None, "image_size": 32}
    training = {"steps": 6, "batch_size": 32}
    student = {"mode": "finetune", "backbone": backbone, "training": training}
    teachers = {"hierarchy": {"by": "class", "levels": [2]}}
    parts = {"student": student, "teachers": teachers, "rounds": REFINED}
    local = sharded_config(manifest, **parts)
    expected = run_with_backend(local, tmp_path / "local")
    execution = {"backend": "ray", "address": nodes.address, **ACTORS}
    config = sharded_config(manifest, execution=execution, **parts)
    found = run_with_backend(config, tmp_path / "run")
    assert compared(found) == compared(expected)
    assert shards_of(tmp_path / "run") == shards_of(tmp_path / "local")
