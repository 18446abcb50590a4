"""Ids of tables are matched with samples by one rule, which is logged; doubtful ones are errors."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from table_helpers import errors, file, one_error, section

from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.teachers.table import ANNOTATED, table_teachers
from cosup.teachers.tables.matching import Matched, SampleIds
from cosup.teachers.tables.teachers import expand_tables

SAMPLES = ["cats/1.png", "cats/2.png", "dogs/3.jpg", "dogs/4.jpg"]


def match(ids: list[str], samples: list[str] = SAMPLES, **settings: object) -> Matched:
    rows = np.ones(len(ids), dtype=np.int64)
    return SampleIds(samples).match("t", pd.Index(ids), rows, **settings)  # type: ignore[arg-type]


RULES = [
    ("exact", SAMPLES[:2], [0, 1]),
    ("path", ["images/cats/1.png", "/data/images/dogs/3.jpg"], [0, 2]),
    ("path", ["./cats/1.png", "dogs\\3.jpg"], [0, 2]),
    ("path", ["1.png", "4.jpg"], [0, 3]),
    ("path", ["cats/1.png", "images/cats/2.png", "images/dogs/3.jpg", "no.png"], [0, 1, 2, -1]),
    ("stem", ["cats/1.tif", "3"], [0, 2]),
    ("stem", ["old/cats/1", "cats/9"], [0, -1]),
]


@pytest.mark.parametrize(("rule", "ids", "places"), RULES)
def test_the_strictest_rule_that_matches_half_is_taken(
    rule: str, ids: list[str], places: list[int]
) -> None:
    found = match(ids)
    assert (found.rule, found.places.tolist()) == (rule, places)


def test_rules_that_are_asked_for() -> None:
    assert match(["old/1.png", "new/3.jpg"], rule="name").places.tolist() == [0, 2]
    with pytest.raises(UserError, match="match: name"):
        match(["old/1.png", "new/3.jpg"])  # equal names in other folders may be other images
    with pytest.raises(UserError, match=r"match: path.*2 of 2"):
        match(["images/cats/1.png", "images/cats/2.png"], rule="exact")


def test_an_id_that_could_be_two_samples_names_both() -> None:
    with pytest.raises(UserError) as caught:
        match(["1.png"], ["a/1.png", "b/1.png", "2.png"])
    assert "'1.png' could be 'a/1.png' and 'b/1.png'" in str(caught.value)


def test_two_ids_of_one_sample() -> None:
    with pytest.raises(UserError, match=r"'train/1.png' and 'test/1.png' are both sample '1.png'"):
        match(["train/1.png", "test/1.png"], ["1.png"])
    # One is the other's shorter path.
    assert match(["images/1.png", "1.png"], ["1.png", "2.png"]).rule == "exact"
    assert match(["a/images/1.png", "images/1.png"], ["1.png"]).places.tolist() == [0, 0]


FEW = ["scan_cats/1.png", "scan_cats/2.png", "scan_dogs/3.jpg", "dogs/4.jpg"]


def test_few_matches_say_how_many_and_what_would_mend_them() -> None:
    with pytest.raises(UserError) as caught:
        match(FEW)
    text = str(caught.value)
    for part in ("1 of its 4 rows", "'scan_cats/1.png'", "'cats/1.png'", "without 'scan_'"):
        assert part in text
    assert "3 of 3" in text
    assert match(FEW, ignore=True).places.tolist() == [-1, -1, -1, 3]
    with pytest.raises(UserError, match="none of its sample ids"):
        match(["x", "y"], ignore=True)
    with pytest.raises(UserError, match=r"with 'cats/' in place of 'c_'"):
        match(["c_001.png", "c_002.png"], ["cats/001.png", "cats/002.png"])


def test_samples_that_the_run_leaves_out_are_matched() -> None:
    found = SampleIds(["a"], ["b", "c"]).match("t", pd.Index(["a", "b", "c"]), np.ones(3, int))
    assert found.places.tolist() == [0, 1, 2]


def test_names_of_teachers(tmp_path: Path) -> None:
    path = file(tmp_path / "votes.csv", "task,worker,label\na,ann@x.org,cat\nb,2,dog\n")
    one = file(tmp_path / "one.csv", "sample_id,label\na,cat\n")

    def names(**entry: object) -> list[tuple[str | None, str | None, str | None]]:
        found = expand_tables(section(entry).external, ["cat", "dog"])
        return [(one.name, one.annotator, one.missing) for _, one in found]

    assert names(annotations=path) == [
        ("ann_x.org", "ann@x.org", "abstain"),
        ("2", "2", "abstain"),
    ]
    assert names(annotations=path, name="crowd")[1] == ("crowd_2", "2", "abstain")
    assert names(annotations=path, name="bob", annotator=2) == [("bob", "2", "abstain")]
    assert names(annotations=path, name="c", annotators=[2]) == [("c_2", "2", "abstain")]
    assert names(annotations=one) == [("one", None, "error")]
    assert names(annotations=one, name="x", missing="abstain") == [("x", None, "abstain")]
    # Whoever reads a missing file says so.
    assert names(annotations=tmp_path / "none.csv") == [("none", None, "error")]
    assert "does not exist" in one_error(tmp_path / "none.csv")


def test_all_errors_of_all_annotators_come_at_once(tmp_path: Path) -> None:
    text = "task,worker,label\na,ann,dgo\nb,ben,brid\nc,ann,dgo\nd,cem,\n"
    found = errors(file(tmp_path / "t.csv", text))
    assert [error.nearest for error in found] == [("dog",), ("bird",), ()]
    assert "1 more" in str(found[0])


def test_counts_of_a_real_data_set(data: ImageData, tmp_path: Path) -> None:
    annotated = np.concatenate([data.rows(split) for split in ANNOTATED])
    ids = data.sample_ids(annotated)
    frame = pd.DataFrame({"task": [f"scans/{name}" for name in ids], "label": 3, "worker": "ann"})
    ben = frame[:100].assign(worker="ben", task=ids[:100])
    lost = pd.DataFrame({"task": ["x1", "x2"], "label": 1, "worker": "ben"})
    blank = pd.DataFrame({"task": ids[100:110], "label": None, "worker": "ben"})
    pd.concat([frame, ben, lost, blank]).to_parquet(tmp_path / "votes.parquet")
    plan = section({"annotations": tmp_path / "votes.parquet"})
    hierarchy = plan_hierarchy(plan, data.classes, data.domains, 0)
    ann, other = table_teachers(hierarchy, data)
    assert ann.counts.matched_by == other.counts.matched_by == "by path"
    total = len(ids)
    assert (ann.counts.rows, ann.counts.unmatched, ann.counts.abstained) == (total, 0, 0)
    counts = other.counts
    assert (counts.rows, counts.matched, counts.unmatched) == (112, 110, 2)
    assert (counts.abstained, counts.annotated) == (total - 100, total)


def test_an_annotator_of_a_crowd_may_have_answered_none_of_this_run(
    data: ImageData, tmp_path: Path
) -> None:
    ids = data.sample_ids(data.rows("student_train"))
    outside = data.sample_ids(data.rows("teacher_train"))[0]
    rows = [f"{name},ann,1" for name in ids] + [f"{outside},ben,1"]
    path = file(tmp_path / "votes.csv", "task,worker,label\n" + "\n".join(rows))
    plan = section({"annotations": path})
    ann, ben = table_teachers(plan_hierarchy(plan, data.classes, data.domains, 0), data)
    assert ann.counts.abstained < ben.counts.abstained == ben.counts.annotated
    rows[-1] = "nowhere,ben,1"
    plan = section({"annotations": file(path, "task,worker,label\n" + "\n".join(rows))})
    with pytest.raises(UserError, match=r"annotator 'ben'.*'nowhere'"):
        table_teachers(plan_hierarchy(plan, data.classes, data.domains, 0), data)
