"""Annotation tables divided among shards say what they say of listed samples, or are refused in the
same words."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.digits_manifest import write_manifest
from sharded_world import COMPUTE
from torch import Tensor

from cosup.config.schema import Config
from cosup.data.load import load_data
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.sharded import spill, store
from cosup.sharded.image_work import annotation_product
from cosup.sharded.opening import open_shards
from cosup.sharded.shards import Shards
from cosup.sharded.store import ShardStore
from cosup.sharded.tables import ShardTables
from cosup.sharded.work import CheckImages, Samples
from cosup.teachers.annotate import annotate_rows
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.teachers.table import TableTeacher, table_teachers
from cosup.teachers.tables import frames
from cosup.teachers.tables.checks import check_tables
from cosup.teachers.tables.scan import open_scanned

COUNT, LABELLED, SHARD = 240, 80, 33
IDS = [f"scans/{number % 7}/{number:04d}.png" for number in range(COUNT)]
CLASSES = [str(number) for number in range(10)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest whose ids are paths; the images are not there."""
    folder = tmp_path_factory.mktemp("tables")
    path = write_manifest(folder / "rows", np.arange(COUNT) % 10, COUNT, LABELLED, files=2)
    for file in path.iterdir():
        rows = pd.read_parquet(file)
        rows["id"] = [IDS[int(name[-4:])] for name in rows["id"]]
        rows.to_parquet(file)
    return path


@dataclass(frozen=True)
class Opened:
    """A config with one table, all samples listed, and the same as labelled ones and shards."""

    config: Config
    listed: ImageData
    labelled: ImageData
    shards: Shards

    @staticmethod
    def of(manifest: Path, table: Path, **settings: Any) -> "Opened":
        def config(sharded: bool) -> Config:
            data = {"source": "manifest", "path": str(manifest), "check": "none"}
            backbone = {"name": "test_resnet", "weights": None, "image_size": 32}
            return Config.model_validate(
                {
                    "data": {**data, "sharded": sharded},
                    "teachers": {
                        "hierarchy": None,
                        "external": [{"annotations": str(table), **settings}],
                    },
                    "student": {"backbone": backbone},
                }
            )

        whole = config(sharded=True)
        listed = load_data(config(sharded=False).data, 0, 1, None, teacher_train=False)
        labelled, shards = open_shards(whole.data, 0, SHARD, teacher_train=False)
        return Opened(whole, listed, labelled, shards)

    def listing(self) -> list[TableTeacher]:
        """Return the teachers of a run that lists its samples."""
        data = self.listed
        hierarchy = plan_hierarchy(self.config.teachers, data.classes, data.domains, 0)
        return table_teachers(hierarchy, data)

    def streaming(self) -> tuple[list[TableTeacher], ShardTables]:
        """Return those of a sharded run, which have read their table."""
        data = self.labelled
        section = self.config.teachers
        levels = plan_hierarchy(section, data.classes, data.domains, 0, open_scanned)
        specs = [spec for level in levels for spec in level]
        tables = ShardTables(specs, data, self.shards)
        tables.read_all()
        training = Training(section, data, 0, FeatureCache(COMPUTE), tables=tables.read)
        return [TableTeacher.of(spec, training) for spec in specs], tables


def said(teacher: TableTeacher, data: ImageData, split: str) -> dict[str, Tensor]:
    """Return a teacher's probabilities by sample id."""
    rows = data.rows(split)
    (table,) = annotate_rows([teacher], data, rows, COMPUTE)
    return dict(zip(data.sample_ids(rows), table.dense(), strict=True))


def said_of_shards(
    teachers: list[TableTeacher], tables: ShardTables, folder: Path
) -> list[dict[str, Tensor]]:
    """Write the annotations of shards; return them by sample id."""
    samples = Samples(tables.shards.reader, ShardStore(str(folder)))
    products = {one.name: annotation_product(one, samples) for one in teachers}
    tables.write(teachers, products, samples)
    found: list[dict[str, Tensor]] = []
    for teacher in teachers:
        found.append({})
        for shard in tables.shards:
            data = samples.read(shard)
            probs = samples.store.probs(products[teacher.name], shard.number).dense()
            found[-1] |= zip(data.sample_ids(np.arange(len(data))), probs, strict=True)
    return found


def answers(seed: int, ids: list[str]) -> "np.ndarray[Any, Any]":
    return np.random.default_rng(seed).integers(0, 10, len(ids)).astype(str)


def long(path: Path, ids: list[str] = IDS) -> pd.DataFrame:
    names = {"ann": ids, "ben": ids[::2], "cem": [*ids[100:], "elsewhere"]}
    parts = [
        pd.DataFrame({"task": own, "worker": who, "label": answers(seed, own)})
        for seed, (who, own) in enumerate(names.items())
    ]
    table = pd.concat(parts).sample(frac=1, random_state=0)
    table["confidence"] = np.linspace(0.3, 1, len(table)).round(3)
    table.loc[table.index[:9], "label"] = ""
    return table


def write_csv(path: Path) -> tuple[Path, dict[str, Any]]:
    long(path).to_csv(path / "t.csv", index=False)
    return path / "t.csv", {}


def write_by_path(path: Path) -> tuple[Path, dict[str, Any]]:
    table = long(path).drop(columns="confidence")
    table["task"] = "/data/" + table["task"]
    table.to_parquet(path / "t.parquet")
    return path / "t.parquet", {"annotators": ["cem", "ann"], "name": "crowd"}


def write_by_name(path: Path) -> tuple[Path, dict[str, Any]]:
    table = long(path)
    table["task"] = "old/" + table["task"].str[-8:]
    table.to_json(path / "t.jsonl", orient="records", lines=True)
    return path / "t.jsonl", {"match": "name"}


def write_wide(path: Path) -> tuple[Path, dict[str, Any]]:
    table = pd.DataFrame({"path": IDS[20:]})
    for seed, who in enumerate(("x", "y")):
        table[who] = answers(seed, IDS[20:])
    table.loc[5:60, "y"] = ""
    table.to_csv(path / "t.csv.gz", index=False)
    return path / "t.csv.gz", {}


def write_labels(path: Path) -> tuple[Path, dict[str, Any]]:
    pd.DataFrame({"file": IDS, "label": np.arange(COUNT) % 4}).to_parquet(path / "t.parquet")
    return path / "t.parquet", {"scope": {"classes": CLASSES}}


def write_probabilities(path: Path) -> tuple[Path, dict[str, Any]]:
    probs = np.random.default_rng(0).dirichlet(np.ones(10) / 3, COUNT)
    probs[::9] = 0
    table = pd.DataFrame(probs, columns=CLASSES)
    table.insert(0, "sample_id", IDS)
    table.iloc[::-1].to_parquet(path / "t.parquet")
    return path / "t.parquet", {"missing": "abstain"}


def write_matrix(path: Path) -> tuple[Path, dict[str, Any]]:
    votes = np.random.default_rng(1).integers(-1, 10, (COUNT, 3))
    np.savez(path / "t.npz", votes=votes, ids=np.array(IDS))
    return path / "t.npz", {}


def write_label_studio(path: Path) -> tuple[Path, dict[str, Any]]:
    tasks = [
        {
            "data": {"image": name},
            "annotations": [
                {"completed_by": at % 2, "result": [{"value": {"choices": [str(at % 10)]}}]}
            ],
        }
        for at, name in enumerate(IDS)
    ]
    (path / "t.json").write_text(json.dumps(tasks))
    return path / "t.json", {}


WRITERS = [
    write_csv,
    write_by_path,
    write_by_name,
    write_wide,
    write_labels,
    write_probabilities,
    write_matrix,
    write_label_studio,
]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("write", WRITERS)
def test_shards_have_the_annotations_of_a_listed_run(
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], tuple[Path, dict[str, Any]]],
    small: bool,
) -> None:
    if small:  # several chunks and parts, and several pieces of a part
        monkeypatch.setattr(frames, "CHUNK_ROWS", 70)
        monkeypatch.setattr(spill, "PART_ROWS", 50)
        monkeypatch.setattr(spill, "HELD_BYTES", 4000)
    table, settings = write(tmp_path)
    world = Opened.of(manifest, table, **settings)
    expected, (found, tables) = world.listing(), world.streaming()
    assert [one.identity for one in found] == [one.identity for one in expected]
    of_shards = said_of_shards(found, tables, tmp_path / "store")
    for one, other, own in zip(expected, found, of_shards, strict=True):
        assert other.counts == one.counts
        assert other.table.form == one.table.form
        whole = said(one, world.listed, "student_train")
        assert whole.keys() == own.keys()
        assert all(torch.equal(whole[name], own[name]) for name in whole)
        for split in ("validation", "test"):
            mine = said(other, world.labelled, split)
            theirs = said(one, world.listed, split)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_broken_image_has_no_annotation(manifest: Path, tmp_path: Path) -> None:
    world = Opened.of(manifest, write_csv(tmp_path)[0])
    teachers, tables = world.streaming()
    reader, kept = world.shards.reader, ShardStore(str(tmp_path / "store"))
    check = CheckImages(reader, kept)
    for number, shard in enumerate(world.shards):
        broken = torch.tensor([0, 3] if number == 1 else [], dtype=torch.int64)
        kept.write(check.product, shard.number, store.table_of({"row": broken}))
    samples = Samples(reader, kept, check.product)
    products = {one.name: annotation_product(one, samples) for one in teachers}
    tables.write(teachers, products, samples)
    shard = world.shards.shards[1]
    probs = kept.probs(products["ann"], shard.number).dense()
    whole = said(world.listing()[0], world.listed, "student_train")
    data = samples.read(shard)
    names = data.sample_ids(np.arange(len(data)))
    assert len(probs) == len(names) == shard.samples - 2
    assert torch.equal(probs, torch.stack([whole[name] for name in names]))


def test_what_is_written_is_not_read_again(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Opened.of(manifest, write_csv(tmp_path)[0])
    teachers, tables = world.streaming()
    samples = Samples(tables.shards.reader, ShardStore(str(tmp_path / "store")))
    products = {one.name: annotation_product(one, samples) for one in teachers}
    tables.write(teachers, products, samples)
    tables.close()
    monkeypatch.setattr("cosup.sharded.tables.TableJoin", None)
    again = ShardTables(tables.specs, world.labelled, world.shards)
    again.write(teachers, products, samples)
    samples.store.discard(f"{products['ben'].folder}/0000002.parquet")
    with pytest.raises(TypeError):
        again.write(teachers, products, samples)


def broken(**changes: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        for column, (row, value) in changes.items():
            table.iloc[row, list(table.columns).index(column)] = value
        return table

    return change


def doubled(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[[70, 30]]])


def unknown(table: pd.DataFrame) -> pd.DataFrame:
    table.iloc[[12, 40, 41], 2] = ["7up", "x", "7up"]
    return table


def foreign(table: pd.DataFrame) -> pd.DataFrame:
    table["task"] = ["none/" + name[-5:] + str(n) for n, name in enumerate(table["task"])]
    return table


def two_ids(table: pd.DataFrame) -> pd.DataFrame:
    own = table[table["worker"] == "ann"].iloc[[4]]
    return pd.concat([table, own.assign(task="scan_of/" + own["task"])])


REFUSED: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], dict[str, Any]]] = [
    (doubled, {}),
    (unknown, {}),
    (foreign, {}),
    (foreign, {"unmatched": "ignore"}),
    (two_ids, {"match": "path"}),
    (broken(task=(50, "")), {}),
    (broken(worker=(50, "")), {}),
    (broken(confidence=(50, 1.5)), {}),
    (broken(), {"missing": "error"}),
    (broken(), {"annotator": "dora"}),
    (broken(), {"scope": {"classes": CLASSES[:4]}}),
    (lambda table: table[table["worker"] != "ann"].iloc[:0], {}),
    (lambda table: table.assign(label=""), {"annotator": "ann"}),
    (lambda table: table[table["worker"] == "ann"].drop(columns="worker").iloc[12:], {}),
    (lambda table: table.drop(columns="task"), {}),
]


@pytest.mark.parametrize(("change", "settings"), REFUSED)
def test_tables_are_refused_in_the_words_of_a_listed_run(
    manifest: Path,
    tmp_path: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    settings: dict[str, Any],
) -> None:
    change(long(tmp_path)).to_csv(tmp_path / "t.csv", index=False)
    world = Opened.of(manifest, tmp_path / "t.csv", **settings)

    def lines(call: Callable[[], object]) -> list[str]:
        with pytest.raises(UserError) as caught:
            call()
        return str(caught.value).splitlines()

    assert lines(world.streaming) == lines(world.listing)


def test_what_needs_no_samples_is_told_before_a_run(manifest: Path, tmp_path: Path) -> None:
    unknown(long(tmp_path)).to_csv(tmp_path / "t.csv", index=False)
    section = Opened.of(manifest, tmp_path / "t.csv").config.teachers
    found = [str(error) for error in check_tables(section, CLASSES, streamed=True)]
    assert found == [str(error) for error in check_tables(section, CLASSES)]
    assert len(found) == 2
