"""Tests of few-shot classes and episodes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_errors import error_of, section_error_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.data.episodes import EpisodePool, EpisodeRows, Episodes, EpisodeSize, episode_rows
from cosup.data.load import load_data
from cosup.data.section import DataSection, FewShotSection
from cosup.data.table import ImageData
from cosup.errors import MISSING

Writer = Callable[..., Path]
SHARES = {"teacher_train": 0.4, "student_train": 0.5, "validation": 0.1}


def load(few_shot: dict[str, Any], seed: int = 0, **data: Any) -> ImageData:
    settings = {"source": "digits", "rotations": [0], "splits": SHARES, **data}
    settings["few_shot"] = {"ways": 2, **few_shot}
    return load_data(DataSection.model_validate(settings), seed, 1, None)


def novel_of(data: ImageData) -> ImageData:
    assert data.novel is not None
    return data.novel


def test_the_last_classes_are_set_aside() -> None:
    data = load({"novel": 3, "validation": 2})
    novel, validation = novel_of(data), data.novel_validation
    assert validation is not None
    assert data.classes == ("0", "1", "2", "3", "4")
    assert validation.classes == ("5", "6")
    assert novel.classes == ("7", "8", "9")
    parts = [data, validation, novel]
    names = [set(part.table["sample_id"]) for part in parts]
    assert sum(map(len, names)) == len(set().union(*names)) == 1797
    whole = load_data(
        DataSection.model_validate({"source": "digits", "rotations": [0]}), 0, 1, None
    )
    true = dict(zip(whole.table["sample_id"], whole.table["label"], strict=True))
    for part in parts:
        labels = part.truth(np.arange(len(part))).labels.tolist()
        # Labels start anew in each part, and still name the same classes; images are their own.
        named = [part.classes[label] for label in labels]
        assert named == [whole.classes[true[name]] for name in part.table["sample_id"]]
        row = len(part) // 2
        other = whole.table.index[whole.table["sample_id"] == part.table["sample_id"][row]][0]
        assert part.read(row).tobytes() == whole.read(int(other)).tobytes()
    assert len(novel.rows("test")) == len(novel)
    assert len(validation.rows("validation")) == len(validation)
    assert not len(data.rows("test"))
    assert len(data.rows("validation"))


def test_classes_by_name_by_index_and_drawn() -> None:
    named = load({"novel": ["3", 7], "validation": [0, 1]})
    assert novel_of(named).classes == ("3", "7")
    assert named.classes == ("2", "4", "5", "6", "8", "9")
    drawn = [novel_of(load({"novel": 4, "draw": True}, seed)).classes for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_noise_reaches_base_classes_alone() -> None:
    noise = {"kind": "symmetric", "rate": 0.5}
    data = load({"novel": 3}, noise=noise)
    rows = data.rows("student_train")
    assert data.given(rows).max() == 6
    assert 0.35 < float(data.noisy(rows).float().mean()) < 0.65
    novel = novel_of(data)
    assert not novel.noisy(np.arange(len(novel))).any()


def test_an_official_test_part_has_no_meaning_here() -> None:
    fashion = "/usr/share/datasets/fashion-mnist"
    if not Path(fashion).is_dir():
        pytest.skip("no Fashion-MNIST")
    section = DataSection.model_validate(
        {
            "source": "idx",
            "root": fashion,
            "limit": 700,
            "splits": {"teacher_train": 0.5, "student_train": 0.5},
            "few_shot": {"novel": 5},
        }
    )
    data = load_data(section, 0, 1, None)
    assert len(data) == len(novel_of(data)) == 350
    assert [len(data.rows(s)) for s in ("teacher_train", "student_train", "test")] == [175, 175, 0]


@pytest.mark.parametrize(
    ("few_shot", "key", "value", "part"),
    [
        ({"novel": 3, "ways": 4}, "ways", 4, "3 novel"),
        ({"novel": 4, "validation": 3, "ways": 4}, "ways", 4, "3 validation"),
        ({"novel": 9}, "novel", MISSING, "leave 1"),
        ({"novel": 11}, "novel", 11, "10 classes"),
        ({"novel": 6, "validation": 5}, "validation", 5, "4 classes"),
        ({"novel": ["3", "x"]}, "novel", "x", ""),
        ({"novel": [3, 12]}, "novel", 12, ""),
        ({"novel": ["3", "4"], "validation": ["4", "5"]}, "novel", "4", ""),
        ({"novel": "given"}, "novel", "given", ""),
    ],
)
def test_bad_few_shot_classes(few_shot: dict[str, Any], key: str, value: object, part: str) -> None:
    error = error_of(load, few_shot)
    assert error.key == ("data", "few_shot", key)
    assert error.value == value
    assert part in error.problem
    if value in ("x", 12):
        assert error.allowed is not None
        assert "9" in error.allowed


def test_there_is_no_test_split(tmp_path: Path, class_folder: Writer) -> None:
    shares = {"teacher_train": 0.3, "student_train": 0.4, "test": 0.2}
    error = section_error_of(load, {"novel": 3}, splits=shares)
    assert (error.key, error.value) == (("splits", "test"), 0.2)
    error = section_error_of(load, {"novel": ["1", "2"], "draw": True})
    assert (error.key, error.value) == (("draw",), True)
    for key, value, allowed in (("answers", "a.csv", "null"), ("divide_test", True, "false")):
        error = section_error_of(load, {"novel": 3}, **{key: value})
        assert (error.key, error.value, error.allowed) == ((key,), value, allowed)
    for number, split in enumerate(("teacher_train", "student_train", "test")):
        class_folder(tmp_path / split, classes=(0, 1, 2, 3), count=2, start=2 * number)
    section = DataSection.model_validate(
        {
            "source": "image_folder",
            "root": str(tmp_path),
            "splits": "given",
            "few_shot": {"novel": 2, "ways": 2},
        }
    )
    error = error_of(load_data, section, 0, 1, None)
    assert error.key == ("data", "few_shot")
    assert "4 samples are in test" in error.problem


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 12), min_size=2, max_size=6),
    shots=st.integers(1, 2),
    queries=st.integers(1, 2),
    data=st.data(),
)
def test_episodes_hold_what_they_say(
    sizes: list[int], shots: int, queries: int, data: st.DataObject
) -> None:
    ways = data.draw(st.integers(2, len(sizes)))
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.repeat(np.arange(len(sizes)), sizes), [-1, -1]]))
    pool, size = EpisodePool(labels), EpisodeSize(ways, shots, queries)
    found = pool.draw(size, 7, seed)
    assert found.support.shape == (7, ways, shots)
    assert found.query.shape == (7, ways, queries)
    assert found.classes.shape == (7, ways)
    for episode in range(7):
        own = found.classes[episode].tolist()
        assert len(set(own)) == ways
        rows = torch.cat([found.support[episode], found.query[episode]], 1)
        assert len(set(rows.flatten().tolist())) == ways * (shots + queries)
        for way, label in enumerate(own):
            assert set(labels[rows[way].numpy()].tolist()) == {label}
    again = pool.draw(size, 7, seed)
    assert torch.equal(found.query, again.query)
    assert torch.equal(found.support, again.support)


def test_every_sample_and_class_is_drawn_alike() -> None:
    labels = np.arange(60) % 6
    found = EpisodePool(labels).draw(EpisodeSize(3, 1, 4), 2000, 0)
    counts = np.bincount(found.query.flatten().numpy(), minlength=60)
    assert (abs(counts - 400) < 6 * np.sqrt(400)).all()
    ways = np.bincount(found.classes.flatten().numpy(), minlength=6)
    assert (abs(ways - 1000) < 6 * np.sqrt(1000)).all()


def test_a_query_never_shows_what_its_support_shows() -> None:
    """The four rotations of a scan are one group: an episode holds one of them at most."""
    data = load({"novel": 3, "shots": 2, "queries": 5, "episodes": 40}, rotations=[0, 30, 60, 90])
    novel = novel_of(data)
    section = FewShotSection(novel=3, ways=3, shots=2, queries=5, episodes=40)
    found = episode_rows(novel, section, 0).episodes
    rows = torch.cat([found.support, found.query], 2).flatten(1)
    turned = set()
    for episode in rows.numpy():
        groups = novel.table["group"].iloc[episode]
        assert groups.is_unique
        turned |= set(novel.table["domain"].iloc[episode])
    assert turned == {0, 1, 2, 3}


def test_episodes_that_can_not_be_drawn() -> None:
    labels = np.repeat([0, 1, 2], [5, 9, 9])
    error = error_of(EpisodePool(labels).draw, EpisodeSize(4, 1, 1), 1, 0)
    assert (error.key, error.value) == (("ways",), 4)
    assert "3 classes" in error.problem
    error = error_of(EpisodePool(labels).draw, EpisodeSize(2, 1, 5), 1, 0)
    assert (error.key, error.value) == (("shots",), 1)
    assert "6 images" in error.problem
    row = np.arange(27)
    pool = EpisodePool(row % 3, np.where(row % 3 == 1, row % 9, row))
    error = error_of(pool.draw, EpisodeSize(2, 1, 5), 1, 0)
    assert "6 groups of images" in error.problem
    assert error.problem.endswith("class '1' has 3")
    novel = novel_of(load({"novel": 3}, limit=200))
    section = FewShotSection(novel=3, ways=3, shots=15, queries=15, episodes=2)
    error = error_of(episode_rows, novel, section, 0)
    assert (error.key, error.value) == (("data", "few_shot", "shots"), 15)
    assert re.search(r"class '7' has 2\d$", error.problem)


def test_queries_are_laid_out_episode_by_episode_and_way_by_way() -> None:
    novel = novel_of(load({"novel": 3}))
    support = torch.tensor([[[5], [40]], [[7], [5]]])
    query = torch.tensor([[[9, 3], [2, 40]], [[3, 9], [1, 0]]])
    episodes = Episodes(support, query, torch.tensor([[2, 0], [1, 2]]))
    rows = EpisodeRows(novel, episodes)
    assert len(episodes) == 2
    assert len(rows) == 8
    assert rows.way.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert rows.group.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert rows.class_of.tolist() == [2, 2, 0, 0, 1, 1, 2, 2]
    assert rows.used.tolist() == [0, 1, 2, 3, 5, 7, 9, 40]
    assert (rows.used[rows.support.numpy()] == support.numpy()).all()
    assert (rows.used[rows.query.numpy()] == query.numpy()).all()
