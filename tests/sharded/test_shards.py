"""Shards of a manifest hold the samples that an ordinary run would list, each once."""

import io
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.digits_manifest import write_manifest
from helpers.user_errors import error_of, key_of
from sharded_world import LABELLED, ROWS, SHARD, Open, World

from cosup.data.load import load_data
from cosup.data.section import DataSection
from cosup.errors import RunError
from cosup.sharded import distinct_ids, spill
from cosup.sharded.opening import SHARDED_ABOVE, is_sharded, open_shards


def ids_of(world: World) -> list[str]:
    return [
        name
        for shard in world.shards
        for name in world.shards.reader.read(shard).table["sample_id"]
    ]


def test_shards_and_labelled_samples_are_those_of_an_ordinary_run(opened: Open) -> None:
    world = opened()
    section = world.config.data
    source = section.source.model_copy(
        update={"settings": {**section.source.settings, "sharded": False}}
    )
    whole = load_data(section.model_copy(update={"source": source}), 0, 1, None)
    student = whole.rows("student_train")
    assert ids_of(world) == whole.sample_ids(student)
    assert world.shards.samples == len(student) == ROWS - LABELLED
    for split in ("teacher_train", "validation", "test"):
        rows = world.labelled.rows(split)
        assert world.labelled.sample_ids(rows) == whole.sample_ids(whole.rows(split))
        assert (world.labelled.truth(rows).labels == whole.truth(whole.rows(split)).labels).all()
    assert (world.shards.classes, world.shards.domains) == (whole.classes, whole.domains)
    first = world.shards.reader.read(world.shards.shards[0])
    found = np.asarray(first.read(0))
    assert (found == np.asarray(whole.read(int(student[0])))).all()
    assert first.rows("student_train").tolist() == list(range(len(first)))


def test_a_shard_is_rows_of_one_file(opened: Open) -> None:
    world = opened()
    assert [shard.number for shard in world.shards] == list(range(len(world.shards)))
    for shard in world.shards:
        assert shard.rows <= SHARD
        assert shard.first % SHARD == 0
        assert 0 < shard.samples <= shard.rows


@pytest.mark.parametrize(
    "shares", [None, {"teacher_train": 0.5, "student_train": 0.2, "test": 0.3}]
)
def test_splits_are_drawn_without_looking_at_other_rows(
    tmp_path: Path, digits: Path, opened: Open, shares: Any
) -> None:
    labels = np.arange(500) % 10
    (tmp_path / "images").symlink_to(digits / "images")
    write_manifest(tmp_path / "rows", labels, ROWS, LABELLED, files=2, named=False)
    world = opened(tmp_path / "rows", **({"splits": shares} if shares else {}))
    counts = Counter(world.labelled.table["split"])
    drawn = {split: counts[split] / LABELLED for split in ("teacher_train", "validation", "test")}
    wanted = shares or {"teacher_train": 0.5, "validation": 0.2, "test": 0.3}
    for split, share in drawn.items():
        assert abs(share - wanted.get(split, 0)) < 0.08, drawn
    own = set(ids_of(world))
    assert not own & set(world.labelled.table["sample_id"])
    assert len(own) == world.shards.samples
    assert (
        abs(len(own) - (ROWS - LABELLED + LABELLED * (shares or {}).get("student_train", 0))) < 25
    )
    # In one file, and so in other shards, every row is in the same split.
    write_manifest(tmp_path / "one", labels, ROWS, LABELLED, named=False)
    again = opened(tmp_path / "one", **({"splits": shares} if shares else {}))
    assert set(ids_of(again)) == own
    listed, shards = open_shards(world.config.data, 1, SHARD)
    assert listed.table["split"].tolist() != world.labelled.table["split"].tolist()
    if (shares or {}).get("student_train"):
        assert shards.fingerprint != world.shards.fingerprint
    else:  # the seed draws the labelled rows alone, and all shards have the same samples
        assert shards.fingerprint == world.shards.fingerprint
        assert set(ids_of(replace(world, shards=shards))) == own


def test_groups_stay_together(tmp_path: Path, digits: Path, opened: Open) -> None:
    (tmp_path / "images").symlink_to(digits / "images")
    write_manifest(tmp_path / "rows", np.arange(500) % 10, 400, 400, named=False)
    (file,) = (tmp_path / "rows").iterdir()
    frame = pd.read_parquet(file)
    frame["group"] = [f"group {row // 4}" for row in range(len(frame))]
    frame.to_parquet(file)
    world = opened(tmp_path / "rows", splits={"teacher_train": 0.4, "student_train": 0.6})
    of_student = {name[-7:] for name in ids_of(world)}
    groups = {int(row) // 4 for row in of_student}
    assert len(of_student) == 4 * len(groups)
    frame.loc[0, "label"] = None
    frame.to_parquet(file)
    assert key_of(error_of(opened, tmp_path / "rows")) == "data.splits"


def test_tar_files_are_read_from_the_middle(tmp_path: Path, digits: Path, opened: Open) -> None:
    for part in range(2):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            for number in range(150):
                name = f"{number:04d}"
                tar.add(digits / f"images/{150 * part + number:04d}.png", f"{name}.png")
                if number < 60:
                    label = f"{number % 3}".encode()
                    info = tarfile.TarInfo(f"{name}.cls")
                    info.size = len(label)
                    tar.addfile(info, io.BytesIO(label))
    world = opened(tmp_path)
    assert len(world.labelled) == 120
    assert len(ids_of(world)) == world.shards.samples == 180
    last = world.shards.shards[-1]
    data = world.shards.reader.read(last)
    assert data.sample_ids(np.asarray([len(data) - 1])) == ["1/0149"]
    whole = load_data(
        DataSection.model_validate({"source": "manifest", "path": str(tmp_path)}), 0, 1, None
    )
    place = int(whole.find(["1/0149"])[0])
    assert (np.asarray(data.read(len(data) - 1)) == np.asarray(whole.read(place))).all()


def test_a_manifest_that_changed_is_told(tmp_path: Path, digits: Path, opened: Open) -> None:
    (tmp_path / "images").symlink_to(digits / "images")
    write_manifest(tmp_path / "rows", np.arange(500) % 10, ROWS, LABELLED)
    world = opened(tmp_path / "rows")
    write_manifest(tmp_path / "rows", np.arange(500) % 10, ROWS - 20, LABELLED)
    with pytest.raises(RunError, match="changed"):
        ids_of(world)
    assert opened(tmp_path / "rows").shards.fingerprint != world.shards.fingerprint


SAME = {
    "of a shard": (640, 641),
    "of shards": (350, 460),
    "of files": (350, 699),
    "of labelled samples": (3, 200),
    "of a labelled sample and another": (3, 350),
}
"""Rows that have one id."""


@pytest.mark.parametrize("parts", [1, 5])
@pytest.mark.parametrize("rows", SAME.values(), ids=SAME)
def test_an_id_of_two_samples_is_refused(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch, rows: tuple[int, int], parts: int
) -> None:
    monkeypatch.setattr(spill, "PART_ROWS", -(-ROWS // parts))
    write_manifest(tmp_path / "rows", np.arange(500) % 10, ROWS, LABELLED, files=3)
    starts, places = np.cumsum([0, 234, 233]), []
    for row in rows:
        file = int(np.searchsorted(starts, row, side="right")) - 1
        path = tmp_path / "rows" / f"part-{file:03d}.parquet"
        frame = pd.read_parquet(path)
        frame.loc[row - starts[file], "id"] = "twice"
        frame.to_parquet(path)
        places.append(f"row {row - starts[file] + 1} of '{path}'")
    error = error_of(opened, tmp_path / "rows", check="none")
    assert (key_of(error), error.value) == ("data.path", "twice")
    assert " and ".join(places) in str(error)


def test_ids_with_one_hash_are_no_mistake(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ids_of(opened())
    monkeypatch.setattr(distinct_ids, "_hashes", lambda ids: np.ones(len(ids), np.uint64))
    assert ids_of(opened()) == expected


def test_a_row_without_an_id_is_refused(tmp_path: Path, opened: Open) -> None:
    path = write_manifest(tmp_path / "rows", np.arange(500) % 10, ROWS, LABELLED)
    frame = pd.read_parquet(path / "part-000.parquet")
    frame.loc[650, "id"] = None
    frame.to_parquet(path / "part-000.parquet")
    error = error_of(opened, path, check="none")
    assert key_of(error) == "data.path"
    assert "row 651 has no id" in str(error)


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"max_labelled": 100}, "data.max_labelled"),
        ({"noise": {"kind": "symmetric", "rate": 0.1}}, "data.noise"),
        ({"limit": 100}, "data.limit"),
        ({"classes": ["0", "1"]}, "data.path"),
    ],
)
def test_mistakes(opened: Open, data: dict[str, Any], key: str) -> None:
    assert key_of(error_of(opened, **data)) == key


def test_when_a_run_is_sharded(tmp_path: Path, digits: Path, monkeypatch: Any) -> None:
    def sharded(**data: Any) -> bool:
        given = {"source": "manifest", "path": str(digits / "rows"), **data}
        return is_sharded(DataSection.model_validate(given))

    assert not sharded()
    assert sharded(sharded=True)
    monkeypatch.setattr("cosup.sharded.opening.SHARDED_ABOVE", ROWS - 1)
    assert sharded()
    assert not sharded(sharded=False)
    assert not is_sharded(DataSection.model_validate({"source": "digits"}))
    assert SHARDED_ABOVE >= 100_000
