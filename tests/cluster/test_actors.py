"""Tests of teachers and features by actors: equal bits, also after actors are killed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from actor_helpers import (
    LINEAR,
    NETWORKS,
    SAVE_EVERY,
    SHARD,
    STREAMED,
    TINY,
    actors,
    assert_same_files,
    config,
    plan,
    train_here,
)
from cluster_helpers import TwoNodes, actor_pids, assert_nothing_left, wait_until

from cosup.cluster.actor import PoolActor
from cosup.cluster.pool import Pool
from cosup.cluster.teachers import annotate_with_pool, features_by_pool, train_groups
from cosup.cluster.work_queue import WorkItem
from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.errors import RunError
from cosup.files import save_tensors
from cosup.models.classifier import build_classifier
from cosup.models.loop_state import StateFile, Write
from cosup.models.section import BackboneSection
from cosup.teachers.annotate import annotate, open_store
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.store import AnnotationStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_threads")]


# Actors cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class HeldActor(PoolActor):
    """An actor whose trainings wait after their first state while the file `hold` is there."""

    def train(self, specs: Sequence[TeacherSpec], directory: str) -> Any:
        hold, save = Path(directory).with_name("hold"), StateFile.save

        def held(states: StateFile, step: int, write: Write | None) -> None:
            while step > SAVE_EVERY and hold.exists():
                time.sleep(0.02)
            save(states, step, write)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StateFile, "save", held)
            return super().train(specs, directory)


@pytest.fixture(scope="module")
def shared(cluster: TwoNodes, data: ImageData) -> Iterator[Pool]:
    """Return two actors, one per node, for the tests that need no others."""
    if cluster.second is None:
        cluster.add()
    with actors(data, config(NETWORKS), actor=HeldActor) as pool:
        yield pool
    assert_nothing_left()


def test_features_are_equal_from_any_row_on(
    shared: Pool, data: ImageData, features: FeatureCache
) -> None:
    section = BackboneSection.model_validate(TINY)
    source = features.source(section)
    remote = features_by_pool(lambda: shared, data, 16, 40, lambda _: source.backbone.identity)
    whole = source.of_split(data, "test")
    everything = torch.cat(list(remote.blocks(section, "test", 0)))
    assert torch.equal(everything[torch.from_numpy(data.rows("test"))], whole)
    rest = torch.cat(list(remote.blocks(section, "test", 64)))
    assert torch.equal(rest, everything[64:])
    for name, part in data.shifted.items():
        found = torch.cat(list(remote.blocks(section, f"shifted-{name}", 0)))
        assert torch.equal(found, source.of_split(part, "test"))
    other = features_by_pool(lambda: shared, data, 16, 400, lambda _: "another's")
    with pytest.raises(RunError, match="backbone 'cifar_resnet8' on node"):
        list(other.blocks(section, "test", 0))


def test_teachers_are_trained_in_parallel_and_resumed_after_a_kill(
    shared: Pool, data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    groups = plan(data, NETWORKS) + plan(data, LINEAR)[1:] + plan(data, STREAMED)[:1]
    local, remote = tmp_path / "local", tmp_path / "remote"
    remote.mkdir()
    train_here(groups, data, features, local)
    reported: list[tuple[str, int, float, int]] = []
    section = TeachersSection()
    training = Training(section, data, 0, features, lambda *args: reported.append(args), remote)
    wait_for_both(shared)
    killed: list[int] = []
    hold = tmp_path / "hold"
    hold.touch()

    def kill() -> None:
        wait_until(lambda: len(list(remote.glob("*.state"))) == 2, "two are not trained at once")
        killed.append(next(iter(actor_pids("HeldActor"))))
        os.kill(killed[0], signal.SIGKILL)
        hold.unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    train_groups(lambda: shared, groups, training)
    killer.join()
    assert killed
    assert_same_files(remote, local)
    steps = {step for name, step, *_ in reported if name == groups[1][0].name}
    assert 50 in steps
    train_groups(_no_pool, groups, training)  # no work is left


def test_annotations_are_equal_after_actors_and_nodes_are_killed(
    cluster: TwoNodes, shared: Pool, data: ImageData, features: FeatureCache, tmp_path: Path
) -> None:
    """Kills happen during the work; the pool of this module has one actor then. One teacher is a
    pretrained classifier, which actors restore from its weights. Shifted sets are annotated too."""
    quick = {**NETWORKS, "training": {"steps": 3, "batch_size": 16, "lr": 0.01}}
    save_tensors(tmp_path / "12.safetensors", build_classifier(TINY["name"], 12).model.state_dict())
    ready = {**TINY, "use": "pretrained", "weights": str(tmp_path / "12.safetensors")}
    classes = {str(digit): [digit + 2] for digit in range(10)}
    level = [{"name": "ready", "model": {**ready, "classes": classes}}]
    used = {"hierarchy": {"by": "explicit", "teachers": [level]}}
    groups = [*plan(data, quick), *plan(data, used)]
    teachers = train_here(groups, data, features, tmp_path / "teachers")
    local = open_store(tmp_path / "local", data, SHARD)
    annotate(teachers, data, local, features.compute)
    assert {"shifted-noisy", "shifted-turned"} < set(local.sizes)
    total = sum(local.shards(split) for split in local.sizes) * len(teachers)

    def annotate_and(kill: Callable[[], object], folder: str) -> AnnotationStore:
        reported: list[tuple[int, int]] = []

        def on_shard(split: str, name: str, done: int, total: int) -> None:
            reported.append((done, total))
            if done == 1:
                kill()

        remote = open_store(tmp_path / folder, data, SHARD)
        wait_for_both(shared)
        annotate_with_pool(lambda: shared, teachers, data, remote, features.compute, on_shard)
        assert reported == [(n + 1, total) for n in range(total)]  # each shard once
        assert_same_files(remote.directory, local.directory)
        return remote

    remote = annotate_and(lambda: os.kill(next(iter(actor_pids("HeldActor"))), signal.SIGKILL), "a")
    annotate_and(cluster.kill, "b")
    (remote.directory / "test" / teachers[1].name / "00001.safetensors").unlink()
    reported: list[int] = []
    annotate_with_pool(
        lambda: shared,
        teachers,
        data,
        remote,
        features.compute,
        lambda *args: reported.append(args[3]),
    )
    assert reported == [1]
    assert_same_files(remote.directory, local.directory)
    annotate_with_pool(_no_pool, teachers, data, remote, features.compute)


def wait_for_both(pool: Pool) -> None:
    """Wait until two actors work, one on each node."""
    at_work: set[str] = set()
    while len(at_work) < 2:
        at_work |= {node for _, node in pool.run([WorkItem("a node", "node_id", ())] * 8)}


def _no_pool() -> Pool:
    raise AssertionError("there is no work")
