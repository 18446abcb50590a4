"""Work on shards gives the bits of an ordinary run, whoever does it and after any interruption."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sharded_world import Open, World

from cosup.data.loader import ImageRows
from cosup.models.classifier import build_classifier
from cosup.sharded.folds import folds_of
from cosup.sharded.image_work import annotation_works, extract_work
from cosup.sharded.prediction import predict_work
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import (
    CheckImages,
    FunctionWork,
    LocalExecutor,
    Samples,
    Work,
)
from cosup.student.launcher import predict_images
from cosup.teachers.annotate import annotate_by_name
from cosup.teachers.features import FeatureCache


def do(work: Work[Any], world: World) -> dict[int, Any]:
    """Do all work in this process, as it arrives when it is sent to another."""
    sent: Work[Any] = pickle.loads(pickle.dumps(work))
    return dict(LocalExecutor(world.compute).run(sent, world.shards.shards))


@pytest.mark.parametrize(
    "model",
    [
        {"name": "linear_pixels", "size": 8},
        {"name": "test_resnet", "image_size": 32},
        {
            "name": "linear_features",
            "backbone": {"name": "test_resnet", "weights": None, "image_size": 32},
        },
    ],
    ids=lambda model: str(model["name"]),
)
def test_annotations_are_those_of_a_listed_run(
    tmp_path: Path, opened: Open, model: dict[str, Any]
) -> None:
    world = opened(model=model, steps=3)
    teachers = world.teachers()
    samples = Samples(world.shards.reader, ShardStore(str(tmp_path)))
    works = annotation_works(teachers, samples, world.restoring(), world.compute)
    for work in works:
        done = do(work, world)
        assert {number: one.samples for number, one in done.items()} == {
            shard.number: shard.samples for shard in world.shards
        }
    products = {p.name: p for p in works[-1].products}
    for shard in world.shards.shards[:2]:
        data = samples.read(shard)
        expected = annotate_by_name(teachers, data, data.rows("student_train"), world.compute)
        for name, table in expected.items():
            found = samples.store.probs(products[name], shard.number)
            assert torch.equal(found.logs, table.logs), name


def test_features_are_those_of_a_listed_run(tmp_path: Path, opened: Open) -> None:
    world = opened()
    samples = Samples(world.shards.reader, ShardStore(str(tmp_path)))
    features = FeatureCache(world.compute)
    backbone = world.config.student.backbone
    work = extract_work(backbone, samples, features, torch.device("cpu"))
    do(work, world)
    shard = world.shards.shards[3]
    expected = features.source(backbone).of_split(samples.read(shard), "student_train")
    found = samples.store.tensors(work.products[0], shard.number)["features"]
    assert torch.equal(found, expected)


def test_predictions_are_those_of_the_network(tmp_path: Path, opened: Open) -> None:
    world = opened()
    section = world.config.student.backbone
    network = build_classifier(section.name, 10, None, section.image_size, seed=3)
    samples = Samples(world.shards.reader, ShardStore(str(tmp_path)))
    work = predict_work(
        Product.of("predictions", "round-1"), [network], section, samples, world.compute
    )
    do(work, world)
    shard = world.shards.shards[1]
    data = samples.read(shard)
    expected = predict_images(network, ImageRows(data, np.arange(len(data))), world.compute)
    found = samples.store.probs(work.products[0], shard.number)
    assert torch.equal(found.logs, expected.logs)


def test_each_sample_is_predicted_by_the_network_of_its_fold(tmp_path: Path, opened: Open) -> None:
    world = opened()
    section, size = world.config.student.backbone, 3
    networks = [
        build_classifier(section.name, 10, None, section.image_size, seed=n) for n in range(size)
    ]
    samples = Samples(world.shards.reader, ShardStore(str(tmp_path)))
    shard, marks = world.shards.shards[1], Product.of("weights", "round-1")
    data = samples.read(shard)
    folds = folds_of(data, size, 0)
    samples.store.write(marks, shard.number, {"fold": folds.to(torch.uint8)})
    product = Product.of("predictions", "round-1")
    work = predict_work(product, networks, section, samples, world.compute, marks)
    list(LocalExecutor(world.compute).run(work, [shard]))
    found = samples.store.probs(product, shard.number).dense()
    whole = ImageRows(data, np.arange(len(data)))
    for fold, network in enumerate(networks):
        expected = predict_images(network, whole, world.compute).dense()
        assert torch.allclose(found[folds == fold], expected[folds == fold], atol=2e-3)
        assert not torch.allclose(found[folds != fold], expected[folds != fold], atol=2e-3)


def test_broken_images_are_left_out_of_all_that_follows(
    tmp_path: Path, digits: Path, opened: Open
) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "images").symlink_to(digits / "images")
    for file in (digits / "rows").iterdir():
        frame = pd.read_parquet(file)
        frame.loc[frame["id"] == "sample-0000400", "uri"] = "../images/none.png"
        frame.to_parquet(tmp_path / "rows" / file.name)
    world = opened(tmp_path / "rows")
    store = ShardStore(str(tmp_path / "store"))
    check = CheckImages(world.shards.reader, store)
    checked = do(check, world)
    ((number, found),) = ((n, one) for n, one in checked.items() if one.broken)
    assert (found.broken, sum(one.broken for one in checked.values())) == (1, 1)
    assert "none.png" in found.reasons[0]
    samples = Samples(world.shards.reader, store, check.product)
    shard = next(shard for shard in world.shards if shard.number == number)
    ids = samples.read(shard).table["sample_id"]
    assert len(ids) == shard.samples - 1
    assert "sample-0000400" not in set(ids)
    (work,) = annotation_works(world.teachers(), samples, world.restoring(), world.compute)
    assert do(work, world)[number].samples == shard.samples - 1


def test_a_shard_without_any_whole_image(tmp_path: Path, opened: Open) -> None:
    world = opened()
    store = ShardStore(str(tmp_path))
    teachers = world.teachers()
    check = CheckImages(world.shards.reader, store)
    shard = world.shards.shards[0]
    import pyarrow as pa

    store.write(check.product, shard.number, pa.table({"row": np.arange(shard.samples)}))
    samples = Samples(world.shards.reader, store, check.product)
    (work,) = annotation_works(teachers, samples, world.restoring(), world.compute)
    ((_, done),) = LocalExecutor(world.compute).run(work, [shard])
    assert done.samples == 0
    assert len(store.probs(work.products[0], shard.number)) == 0


def counted(scale: int, shard: Shard) -> int:
    return scale * shard.samples


def test_a_function_of_a_shard(opened: Open) -> None:
    world = opened()
    work = FunctionWork("counting", partial(counted, 2))
    assert sum(do(work, world).values()) == 2 * world.shards.samples


def test_only_what_is_missing_is_done_again_and_gives_the_same_files(
    tmp_path: Path, opened: Open
) -> None:
    world = opened()
    samples = Samples(world.shards.reader, ShardStore(str(tmp_path)))
    (work,) = annotation_works(world.teachers(), samples, world.restoring(), world.compute)
    executor = LocalExecutor(world.compute)
    interrupted = executor.run(work, world.shards.shards)
    first = dict(next(interrupted) for _ in range(3))
    interrupted.close()
    missing = samples.store.missing(work.products[0], world.shards)
    assert [shard.number for shard in missing] == [s.number for s in world.shards.shards[3:]]
    rest = dict(executor.run(work, missing))
    assert do(work, world) == first | rest
