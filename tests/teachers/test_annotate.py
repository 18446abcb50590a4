"""Annotating fills the store, decodes each image once, and resumes after an interruption."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from teacher_helpers import finest, teachers_section

from cosup.data.table import ImageData
from cosup.data.transforms import PixelTransform
from cosup.layout.kinds import JsonFile
from cosup.models.classifier import build_classifier
from cosup.models.compute import Compute
from cosup.probabilities import ProbTable
from cosup.teachers.annotate import (
    annotate,
    annotate_rows,
    groups_of,
    groups_within,
    open_store,
    weight_bytes,
)
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.teachers.linear import LinearPixels
from cosup.teachers.network import NetworkTeacher
from cosup.teachers.store import AnnotationStore
from cosup.teachers.train import train_level


@pytest.fixture
def teachers(data: ImageData, features: FeatureCache) -> list[Teacher]:
    section = teachers_section(training={"steps": 5})
    return train_level(finest(section, data), Training(section, data, 0, features))


@pytest.mark.parametrize("shard_size", [37, 300, 4096])
def test_the_store_equals_the_teachers_annotations(
    data: ImageData,
    features: FeatureCache,
    teachers: list[Teacher],
    tmp_path: Path,
    shard_size: int,
) -> None:
    store = open_store(tmp_path, data, shard_size)
    annotate(teachers, data, store, features.compute)
    for split in ("student_train", "validation", "test"):
        level = store.level(split, [teacher.name for teacher in teachers])
        stored = torch.cat([dense for _, dense in level.iter_dense()])
        rows = data.rows(split)
        assert len(stored) == len(level) == len(rows)
        for t, teacher in enumerate(teachers):
            # The reference annotates image by image, without batches, shards or threads.
            for place in range(0, len(rows), 29):
                image = PixelTransform(8)(data.read(int(rows[place])))
                expected = teacher.annotate(image[None])[0]
                torch.testing.assert_close(stored[place, t], expected, atol=1e-3, rtol=0)


def test_images_are_decoded_once_and_only_missing_shards_are_written(
    data: ImageData,
    features: FeatureCache,
    teachers: list[Teacher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = 0
    original = PixelTransform.__call__

    def counting(self: PixelTransform, image: object) -> torch.Tensor:
        nonlocal decoded
        decoded += 1
        return original(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(PixelTransform, "__call__", counting)
    store = open_store(tmp_path, data, 50)
    annotate(teachers, data, store, features.compute)
    sizes = sum(store.sizes.values())
    assert decoded == sizes
    annotate(teachers, data, store, features.compute)
    assert decoded == sizes
    name = teachers[1].name
    (tmp_path / "student_train" / name / "00002.safetensors").unlink()
    finished: list[tuple[str, str, int, int]] = []
    annotate(teachers, data, store, features.compute, on_shard=lambda *at: finished.append(at))
    assert decoded == sizes + 50
    assert finished == [("student_train", name, 1, 1)]


def test_an_interrupted_annotation_resumes(
    data: ImageData,
    features: FeatureCache,
    teachers: list[Teacher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = open_store(tmp_path / "whole", data, 50)
    annotate(teachers, data, whole, features.compute)
    cut = open_store(tmp_path / "cut", data, 50)
    write, written = AnnotationStore.write, 0

    def killed(
        self: AnnotationStore, split: str, teacher: Teacher, shard: int, table: ProbTable
    ) -> None:
        nonlocal written
        if written == 7:
            raise KeyboardInterrupt
        written += 1
        write(self, split, teacher, shard, table)

    with monkeypatch.context() as patch:
        patch.setattr(AnnotationStore, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            annotate(teachers, data, cut, features.compute)
    assert len(list((tmp_path / "cut").rglob("*.safetensors"))) == 7
    annotate(teachers, data, cut, features.compute)
    for teacher in teachers:
        tables = [
            store.level("student_train", [teacher.name]).table(teacher.name)
            for store in (whole, cut)
        ]
        assert torch.equal(tables[0].logs, tables[1].logs)


def test_other_samples_make_annotations_stale(
    data: ImageData, features: FeatureCache, teachers: list[Teacher], tmp_path: Path
) -> None:
    annotate(teachers, data, open_store(tmp_path, data, 50), features.compute)
    table = data.table.copy()
    swap = table.index[table["split"] == "student_train"][:1]
    table.loc[swap, "split"] = "test"
    moved = open_store(tmp_path, replace(data, table=table), 50)
    assert moved.missing("test", teachers[0]) == list(range(moved.shards("test")))


def test_a_level_of_many_teachers_is_annotated_and_read_in_one_pass(
    data: ImageData,
    features: FeatureCache,
    teachers: list[Teacher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = teachers[0]
    assert isinstance(made, LinearPixels)
    names = [f"t{place:02d}" for place in range(16)]
    level = [
        LinearPixels(replace(made.spec, name=name), made.head, made.transform, made.steps)
        for name in names
    ]
    decoded, read, listed = 0, list[tuple[int, str]](), 0
    convert, read_shard, index = PixelTransform.__call__, AnnotationStore.read, JsonFile.read

    def converting(self: PixelTransform, image: object) -> torch.Tensor:
        nonlocal decoded
        decoded += 1
        return convert(self, image)  # type: ignore[arg-type]

    def reading(self: AnnotationStore, split: str, name: str, shard: int) -> ProbTable:
        read.append((shard, name))
        return read_shard(self, split, name, shard)

    def listing(self: JsonFile) -> dict[str, Any]:
        nonlocal listed
        listed += 1
        return index(self)

    monkeypatch.setattr(PixelTransform, "__call__", converting)
    monkeypatch.setattr(AnnotationStore, "read", reading)
    monkeypatch.setattr(JsonFile, "read", listing)
    store = open_store(tmp_path, data, 20)
    annotate(level, data, store, features.compute, ("student_train",))
    assert decoded == store.sizes["student_train"]
    assert store.shards("student_train") > 2
    assert listed <= 2 * len(names)  # whatever the shards
    for _ in store.level("student_train", names).iter_dense():
        pass
    # Shard after shard, each file once.
    shards = range(store.shards("student_train"))
    assert read == [(shard, name) for shard in shards for name in names]


def test_networks_annotate_in_the_precision_that_is_asked_for(
    data: ImageData, tmp_path: Path
) -> None:
    """Under autocast; and annotations of another precision are not taken for these."""
    found = {}
    for precision in ("float32", "bfloat16"):
        compute = Compute(torch.device("cpu"), precision)  # type: ignore[arg-type]
        classifier = build_classifier("cifar_resnet8", len(data.classes), None, 16, 0)
        teacher = NetworkTeacher(TeacherSpec("all", 0), classifier, compute, 0)
        (images,) = list(teacher.inputs(data, data.rows("test")[:16], compute))
        found[precision] = teacher.annotate(images)
        with compute.autocast(), torch.inference_mode():
            expected = classifier(images).float().softmax(1)
        assert found[precision].dtype == torch.float32
        assert torch.equal(found[precision], expected)
        store = open_store(tmp_path, data, 100, precision)  # type: ignore[arg-type]
        assert len(store.missing("test", teacher)) == store.shards("test")
        annotate([teacher], data, store, compute, ("test",))
        assert not store.missing("test", teacher)
    assert not torch.equal(found["float32"], found["bfloat16"])
    torch.testing.assert_close(found["float32"], found["bfloat16"], atol=0.05, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_for_a_gpu_are_pinned(data: ImageData) -> None:
    compute = Compute(torch.device("cuda"))
    classifier = build_classifier("cifar_resnet8", len(data.classes), None, 16, 0)
    teacher = NetworkTeacher(TeacherSpec("all", 0), classifier, compute, 0)
    (images,) = list(teacher.inputs(data, data.rows("test")[:16], compute))
    assert images.is_pinned()
    here = NetworkTeacher(TeacherSpec("all", 0), classifier, Compute(), 0)
    there = teacher.annotate(images)
    torch.testing.assert_close(there, here.annotate(images), atol=1e-3, rtol=1e-3)


def test_groups_that_annotate_together_stay_within_the_memory(
    data: ImageData, features: FeatureCache, teachers: list[Teacher]
) -> None:
    section = teachers_section(model={"name": "cifar_resnet8"}, training={"steps": 1})
    networks = train_level(finest(section, data), Training(section, data, 0, features))
    size = weight_bytes(networks[0])
    assert size > 4 * 70_000  # the network has some 78,000 parameters in float32
    assert len(networks) > 2
    both = [*networks, *teachers]

    def sizes(memory: float) -> list[int]:
        groups = groups_within(both, memory)
        assert sorted(t.name for g in groups for t in g) == sorted(t.name for t in both)
        assert all(len({teacher.reads for teacher in group}) == 1 for group in groups)
        return [len(group) for group in groups if group[0] in networks]

    assert sizes(math.inf) == [len(group) for group in groups_of(both)][:1]
    assert sizes(2 * size) == [2] * (len(networks) // 2) + [1] * (len(networks) % 2)
    assert sizes(2 * size - 1) == sizes(1) == [1] * len(networks)


@pytest.mark.parametrize("held", [0, 1000, 2**30])
def test_probabilities_are_the_same_however_many_stay_on_the_device(
    data: ImageData, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, support = Compute(batch_size=16), torch.arange(len(data.classes)) < 7
    classifier = build_classifier("cifar_resnet8", len(data.classes), None, 16, 0)
    spec = TeacherSpec("some", 0, classes=tuple(range(7)))
    networks: list[Teacher] = [
        NetworkTeacher(TeacherSpec("all", 0), classifier, compute, 0),
        NetworkTeacher(spec, classifier, compute, 0),
    ]
    rows, copies = data.rows("test")[:70], 0
    copy = torch.Tensor.cpu

    def counting(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal copies
        copies += 1
        return copy(tensor)

    batches = list(networks[0].inputs(data, rows, compute))
    expected = [
        [ProbTable.compress(teacher.annotate(batch)) for batch in batches] for teacher in networks
    ]
    monkeypatch.setattr("cosup.teachers.annotate.HELD_BYTES", held)
    monkeypatch.setattr(torch.Tensor, "cpu", counting)
    seen: list[int] = []
    tables = annotate_rows(networks, data, rows, compute, seen.append)
    assert seen == [16, 16, 16, 16, 6]
    # 640 bytes per teacher and batch, but for the last: every batch, or all at once.
    assert copies == 2 * {0: 5, 1000: 5, 2**30: 1}[held]
    for table, parts in zip(tables, expected, strict=True):
        assert torch.equal(table.logs, ProbTable.concat(parts).logs)
    assert torch.equal(networks[1].support, support)
    assert not tables[1].dense()[:, 7:].any()


@pytest.mark.parametrize(("networks", "most"), [(0.5, 1), (2, 2), (math.inf, 3)])
def test_the_device_holds_the_teachers_of_one_pass(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: float, most: int
) -> None:
    """And none before or after; the annotations are those of teachers that are all held."""
    compute = Compute(batch_size=16)
    teachers: list[Teacher] = [
        NetworkTeacher(
            TeacherSpec(f"t{seed}", 0),
            build_classifier("cifar_resnet8", len(data.classes), None, 16, seed),
            compute,
            0,
        )
        for seed in range(3)
    ]
    held, largest = set[str](), 0
    answer, unload = NetworkTeacher.answer, NetworkTeacher.unload

    def answering(teacher: NetworkTeacher, inputs: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        held.add(teacher.name)
        largest = max(largest, len(held))
        return answer(teacher, inputs)

    def unloading(teacher: NetworkTeacher) -> None:
        held.discard(teacher.name)
        unload(teacher)

    monkeypatch.setattr(NetworkTeacher, "answer", answering)
    monkeypatch.setattr(NetworkTeacher, "unload", unloading)
    store = open_store(tmp_path, data, 50)
    memory = networks * weight_bytes(teachers[0])
    annotate(teachers, data, store, compute, ("validation", "test"), memory=memory)
    assert (largest, held) == (most, set())
    shard = store.rows("test", 1)
    expected = annotate_rows(teachers, data, data.rows("test")[shard], compute)
    for teacher, table in zip(teachers, expected, strict=True):
        assert torch.equal(store.read("test", teacher.name, 1).dense(), table.dense())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_leaves_the_gpu(data: ImageData) -> None:
    classifier = build_classifier("cifar_resnet8", len(data.classes), None, 16, 0)
    teacher = NetworkTeacher(TeacherSpec("all", 0), classifier, Compute(torch.device("cuda")), 0)
    (images,) = list(teacher.inputs(data, data.rows("test")[:16], teacher.compute))
    teacher.annotate(images)  # cuBLAS keeps the memory that it takes at its first call
    teacher.unload()
    before, first = torch.cuda.memory_allocated(), teacher.annotate(images)
    assert torch.cuda.memory_allocated() >= before + weight_bytes(teacher)
    teacher.unload()
    assert torch.cuda.memory_allocated() == before
    assert torch.equal(teacher.annotate(images), first)
