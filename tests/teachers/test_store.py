"""The store: reading returns what was written, writes are atomic, stale shards are replaced."""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cosup.errors import RunError
from cosup.probabilities import DENSE_LIMIT, ProbTable
from cosup.teachers.store import AnnotationStore


@dataclass(frozen=True)
class Fake:
    name: str
    classes: int
    identity: str = "v1"
    reads: str = "eval-8"

    @property
    def support(self) -> Tensor:
        support = torch.ones(self.classes, dtype=torch.bool)
        support[-1] = False
        return support


def annotations(count: int, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * 4
    logits[:, -1] = -torch.inf
    probs = logits.softmax(1)
    probs[::7] = 0  # abstentions
    return probs


def fill(store: AnnotationStore, split: str, teacher: Fake, probs: Tensor) -> None:
    for shard in range(store.shards(split)):
        table = ProbTable.compress(probs[store.rows(split, shard)])
        store.write(split, teacher, shard, table)


def new_store(path: Path, count: int, classes: int = 5, shard: int = 10) -> AnnotationStore:
    return AnnotationStore(path, "data", classes, {"student_train": count, "test": 0}, shard)


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 60),
    classes=st.sampled_from([2, 5, 64, DENSE_LIMIT + 1]),
    shard=st.integers(1, 25),
    elements=st.integers(1, 2000),
    teachers=st.integers(1, 3),
)
def test_reading_returns_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    classes: int,
    shard: int,
    elements: int,
    teachers: int,
) -> None:
    store = new_store(tmp_path_factory.mktemp("store"), count, classes, shard)
    fakes = [Fake(f"t{t}", classes) for t in range(teachers)]
    written = [annotations(count, classes, seed) for seed in range(teachers)]
    for fake, probs in zip(fakes, written, strict=True):
        assert store.missing("student_train", fake) == list(range(store.shards("student_train")))
        fill(store, "student_train", fake, probs)
        assert store.missing("student_train", fake) == []
    level = store.level("student_train", [fake.name for fake in fakes])
    assert len(level) == count
    read = 0
    for rows, dense in level.iter_dense(elements):
        assert rows.start == read
        assert dense.dtype == torch.float32
        assert dense.numel() <= max(elements, teachers * classes)
        for t, probs in enumerate(written):
            # Rounded to float16; of many classes, small probabilities are spread evenly.
            atol = 1e-3 if classes <= DENSE_LIMIT else 0.02
            torch.testing.assert_close(dense[:, t], probs[rows], atol=atol, rtol=0)
            assert (dense[:, t, -1] == 0).all()
        read = rows.stop
    assert read == count
    for fake, probs in zip(fakes, written, strict=True):
        table = level.table(fake.name)
        assert len(table) == count
        answered = probs.sum(1) > 0
        assert torch.equal(table.top()[0][answered], probs.argmax(1)[answered])


def test_an_empty_split_has_no_shards(tmp_path: Path) -> None:
    store = new_store(tmp_path, 3)
    assert store.missing("test", Fake("t", 5)) == []
    assert list(store.level("test", ["t"]).iter_dense()) == []
    assert len(store.level("test", ["t"]).table("t")) == 0


def test_shards_of_an_earlier_format_are_annotated_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lack what a temperature of a loss would find."""
    store, fake = new_store(tmp_path, 20), Fake("t", 5)
    with monkeypatch.context() as earlier:
        earlier.setattr("cosup.teachers.store.STORE_FORMAT", 1)
        fill(store, "student_train", fake, annotations(20, 5, 0))
        assert new_store(tmp_path, 20).missing("student_train", fake) == []
    again = new_store(tmp_path, 20)
    assert again.missing("student_train", fake) == [0, 1]
    fill(again, "student_train", fake, annotations(20, 5, 0))
    assert new_store(tmp_path, 20).missing("student_train", fake) == []


def test_only_missing_shards_are_missing(tmp_path: Path) -> None:
    store, fake = new_store(tmp_path, 35), Fake("t", 5)
    fill(store, "student_train", fake, annotations(35, 5, 0))
    (tmp_path / "student_train" / "t" / "00002.safetensors").unlink()
    broken = tmp_path / "student_train" / "t" / "00000.safetensors"
    broken.write_bytes(broken.read_bytes()[:-20])
    assert store.missing("student_train", fake) == [0, 2]
    with pytest.raises(RunError, match=r"00002\.safetensors.*gone"):
        store.read("student_train", "t", 2)
    with pytest.raises(RunError, match=r"00000\.safetensors.*damaged"):
        store.read("student_train", "t", 0)


@pytest.mark.parametrize("change", ["identity", "reads", "fingerprint", "shard_size"])
def test_shards_of_another_key_are_stale(tmp_path: Path, change: str) -> None:
    store, fake = new_store(tmp_path, 35), Fake("t", 5)
    fill(store, "student_train", fake, annotations(35, 5, 0))
    if change in ("identity", "reads"):
        fake = replace(fake, **{change: "other"})
    else:
        store = replace(store, **{change: 9 if change == "shard_size" else "other"})
    assert store.missing("student_train", fake) == [0, 1, 2, 3]
    probs = annotations(35, 5, 1)
    store.write("student_train", fake, 0, ProbTable.compress(probs[store.rows("student_train", 0)]))
    assert store.missing("student_train", fake) == [1, 2, 3]
    assert len(list((tmp_path / "student_train" / "t").iterdir())) == 1


def test_the_manifest_lists_stored_annotations_and_abstentions(tmp_path: Path) -> None:
    store = new_store(tmp_path, 12)
    for name in ("a", "b"):
        fill(store, "student_train", Fake(name, 5), annotations(12, 5, 0))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert set(manifest["student_train"]) == {"a", "b"}
    assert manifest["student_train"]["a"]["abstains"] == [4]
    assert manifest["student_train"]["a"]["samples"] == 12
    assert store.abstains("student_train", "a") == [4]
    assert store.abstains("student_train", "unknown") == []


def test_a_full_disk_is_reported_and_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fake = new_store(tmp_path, 12), Fake("t", 5)
    probs = annotations(12, 5, 0)
    table = ProbTable.compress(probs[:10])
    store.write("student_train", fake, 0, table)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="disk full") as caught:
            store.write("student_train", fake, 1, ProbTable.compress(probs[10:]))
        assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "student_train" / "t").iterdir()] == [
        "00000.safetensors"
    ]
    assert store.missing("student_train", fake) == [1]


def test_shards_of_the_wrong_size_are_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path, 12)
    with pytest.raises(ValueError, match="shard 0"):
        store.write("student_train", Fake("t", 5), 0, ProbTable.compress(annotations(3, 5, 0)))


def test_reading_holds_one_shard_per_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, fake = new_store(tmp_path, 60), Fake("t", 5)
    fill(store, "student_train", fake, annotations(60, 5, 0))
    reads: list[int] = []
    original = AnnotationStore.read

    def counting(self: AnnotationStore, split: str, name: str, shard: int) -> ProbTable:
        reads.append(shard)
        return original(self, split, name, shard)

    monkeypatch.setattr(AnnotationStore, "read", counting)
    stream: Iterator[tuple[slice, Tensor]] = store.level("student_train", ["t"]).iter_dense()
    next(stream)
    assert reads == [0]
