"""Files of shards: read as written, found by name, and damage is reported."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
import torch

from cosup.errors import RunError
from cosup.manifest import Damaged
from cosup.models.compute import Compute
from cosup.probabilities import DENSE_LIMIT, ProbTable
from cosup.sharded.shards import Shard
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.taking import take_over
from cosup.sharded.work import LocalExecutor

PRODUCT = Product.of("annotations", "teacher", "weights", "data")
SHARDS = [Shard(number, 0, number * 4, 4, 0, 4) for number in range(5)]


@pytest.fixture(params=["folder", "uri"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ShardStore]:
    if request.param == "folder":
        yield ShardStore(str(tmp_path / "sharded"))
        return
    yield ShardStore(f"memory://{tmp_path.name}/sharded")
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


@pytest.mark.parametrize("classes", [DENSE_LIMIT, DENSE_LIMIT + 50])
@pytest.mark.parametrize("samples", [0, 7])
def test_probabilities_are_read_as_written(store: ShardStore, classes: int, samples: int) -> None:
    support = torch.arange(classes) % 2 == 0
    probs = torch.rand(samples, classes) * support
    table = ProbTable.compress(probs / probs.sum(1, keepdim=True))
    store.write_probs(PRODUCT, 3, table)
    found = store.probs(PRODUCT, 3)
    assert found.num_classes == classes
    for name, tensor in table.tensors().items():
        assert torch.equal(found.tensors()[name], tensor), name


def test_tensors_and_tables(store: ShardStore) -> None:
    features = torch.randn(6, 5).half()
    numbers = torch.arange(6)
    store.write(PRODUCT, 0, {"features": features, "numbers": numbers})
    found = store.tensors(PRODUCT, 0)
    assert torch.equal(found["features"], features)
    assert torch.equal(found["numbers"], numbers)
    assert list(store.tensors(PRODUCT, 0, ["numbers"])) == ["numbers"]
    table = pa.table({"sample_id": ["a", "b"], "kept": [True, False]})
    store.write(PRODUCT, 1, table)
    assert store.table(PRODUCT, 1).equals(table)


def test_what_is_missing_is_found_by_name(store: ShardStore) -> None:
    assert store.missing(PRODUCT, SHARDS) == SHARDS
    for number in (0, 3):
        store.write(PRODUCT, number, {"x": torch.zeros(4)})
    assert [shard.number for shard in store.missing(PRODUCT, SHARDS)] == [1, 2, 4]
    other = Product.of("annotations", "teacher", "other weights", "data")
    assert store.missing(other, SHARDS) == SHARDS
    store.remove(PRODUCT)
    assert store.missing(PRODUCT, SHARDS) == SHARDS


def test_the_same_content_is_the_same_file(store: ShardStore) -> None:
    content = {"x": torch.rand(100, 8)}
    first = store.write(PRODUCT, 0, content)
    assert store.write(PRODUCT, 0, content) == first
    assert first.path.endswith("0000000.parquet")


def test_what_another_store_has_whole_is_taken(store: ShardStore, tmp_path: Path) -> None:
    """It stays when the other store is removed; of what is damaged or missing nothing is taken."""
    other = ShardStore(str(tmp_path / "other"))
    records = [other.write(PRODUCT, number, {"x": torch.rand(1000)}) for number in range(3)]
    damaged = Path(other.root, records[1].path)
    damaged.write_bytes(damaged.read_bytes()[:-50])
    executor = LocalExecutor(Compute())
    store.write(PRODUCT, 2, {"x": torch.zeros(4)})
    take_over(PRODUCT, store, [ShardStore(str(tmp_path / "none")), other], SHARDS, executor)
    assert [shard.number for shard in store.missing(PRODUCT, SHARDS)] == [1, 3, 4]
    assert len(store.tensors(PRODUCT, 2)["x"]) == 4
    shutil.rmtree(other.root)
    assert store.find(PRODUCT, 0) == records[0]
    take_over(PRODUCT, store, [other], SHARDS, executor)
    assert len(store.missing(PRODUCT, SHARDS)) == 3


def test_damage_is_told(tmp_path: Path) -> None:
    store = ShardStore(str(tmp_path))
    record = store.write(PRODUCT, 0, {"x": torch.rand(1000)})
    path = tmp_path / record.path
    content = bytearray(path.read_bytes())
    assert len(content) == record.bytes
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        store.tensors(PRODUCT, 0)
    path.write_bytes(content[:100])
    with pytest.raises(RunError, match="damaged"):
        store.tensors(PRODUCT, 0)
    with pytest.raises(RunError, match=r"0000001.*is gone \(resume"):
        store.tensors(PRODUCT, 1)


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    store = ShardStore(str(tmp_path))
    store.write(PRODUCT, 0, {"x": torch.rand(10)})
    store.write(PRODUCT, 1, pa.table({"x": ["text"]}))
    for read in (store.probs, partial(store.tensor, column="y")):
        with pytest.raises(Damaged, match="0000000"):
            read(PRODUCT, 0)
    with pytest.raises(Damaged, match="0000001"):
        store.tensors(PRODUCT, 1)


def test_any_damage_of_what_describes_a_file_is_told_or_harmless(tmp_path: Path) -> None:
    store, probs = ShardStore(str(tmp_path)), ProbTable.compress(torch.rand(6, 3).softmax(1))
    path = tmp_path / store.write_probs(PRODUCT, 0, probs).path
    whole = path.read_bytes()
    told = 0
    for place in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole)):
        content = bytearray(whole)
        content[place] ^= 0xFF
        path.write_bytes(content)
        try:
            store.probs(PRODUCT, 0)
        except Damaged:
            told += 1
    assert told > 100
