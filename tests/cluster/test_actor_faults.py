"""Tests of shards that always fail."""

from hashlib import md5
from pathlib import Path

import pytest
from actor_helpers import SHARD, actors, config, plan, train_here
from cluster_helpers import TwoNodes

from cosup.cluster.teachers import annotate_with_pool
from cosup.data.table import ImageData
from cosup.errors import RunError
from cosup.teachers.annotate import open_store
from cosup.teachers.base import Teacher
from cosup.teachers.features import FeatureCache
from cosup.teachers.store import AnnotationStore
from cosup.teachers.table import ANNOTATED

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_threads")]

# A teacher that fails on one image, whose hash is in a file in the working directory.
FRAGILE = """
from hashlib import md5
from pathlib import Path
import torch

def teach(images):
    victim = Path("victim").read_text()
    if any(md5(image.numpy().tobytes()).hexdigest() == victim for image in images):
        with open("met", "a") as file:
            file.write("x")
        raise ValueError("not this one")
    return torch.full((len(images), 10), 0.1)
"""


def test_a_shard_that_always_fails_is_named_and_the_others_are_there(
    nodes: TwoNodes,
    data: ImageData,
    features: FeatureCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fragile_teacher.py").write_text(FRAGILE)
    section = {
        "hierarchy": {"by": "class", "levels": [1]},
        "model": {"name": "call:fragile_teacher:teach", "image_size": 32},
    }
    teachers = train_here(plan(data, section), data, features, tmp_path / "teachers")
    victim = data.rows("student_train")[SHARD + 20 : SHARD + 21]
    image = next(teachers[0].inputs(data, victim, features.compute))[0]
    (tmp_path / "victim").write_text(md5(image.numpy().tobytes()).hexdigest())
    store = open_store(tmp_path / "store", data, SHARD)
    with (
        actors(data, config(section), str(tmp_path), count=1, tries=2) as pool,
        pytest.raises(RunError) as caught,
    ):
        annotate_with_pool(lambda: pool, teachers, data, store, features.compute)
    ids = data.sample_ids(data.rows("student_train")[SHARD : 2 * SHARD])
    expected = f"annotations of student_train, samples {SHARD} to {2 * SHARD - 1}: failed after 2"
    assert str(caught.value).startswith(expected)
    assert "teacher 'all': call:fragile_teacher:teach failed: ValueError" in str(caught.value)
    assert f"samples {', '.join(ids[:5])} and 45 more" in str(caught.value)
    assert (tmp_path / "met").read_text() == "xx"
    assert missing(store, teachers[0]) == [("student_train", 1)]


def missing(store: AnnotationStore, teacher: Teacher) -> list[tuple[str, int]]:
    return [(split, shard) for split in ANNOTATED for shard in store.missing(split, teacher)]
