"""Annotation tables in the forms that other tools write are read as these tools read them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cleanlab.multiannotator import convert_long_to_wide_dataset, get_majority_vote_label
from crowdkit.aggregation import MajorityVote
from table_helpers import answers, errors, file, labels, one_error

ANN = {"a.png": "cat", "b.png": "dog"}
BEN = {"a.png": "cat", "c.png": "bird"}
BOTH = {"ann": ANN, "ben": BEN}

LONG = "task,worker,label\na.png,ann,cat\nb.png,ann,dog\na.png,ben,cat\nc.png,ben,bird\n"
WIDE = "sample_id,ann,ben\na.png,cat,cat\nb.png,dog,\nc.png,,bird\n"
MATRIX = "sample_id,ann,ben\na.png,0,0\nb.png,1,-1\nc.png,-1,2\n"


def choice(who: Any, label: str, skipped: bool = False) -> dict[str, Any]:
    """An annotation of Label Studio, as its JSON export has it."""
    value = {"choices": [label]}
    result = {"from_name": "animal", "to_name": "img", "type": "choices", "value": value}
    return {"completed_by": who, "was_cancelled": skipped, "result": [] if skipped else [result]}


def task(image: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, "annotations": list(annotations), "project": 7}


STUDIO = [
    task("/data/local-files/?d=a.png", choice("ann", "cat"), choice("ben", "cat")),
    task("/data/upload/3/0a1b2c3d-b.png", choice("ann", "dog")),
    task("https://host/c.png", choice("ben", "bird")),
]
MINIMAL = [
    {"image": sample, "id": 1, "animal": label, "annotator": who, "annotation_id": 5,
     "created_at": "2021", "updated_at": "2021", "lead_time": 1.5}
    for who, given in BOTH.items()
    for sample, label in given.items()
]  # fmt: skip
COCO = {
    "images": [{"id": at, "file_name": f"{name}.png"} for at, name in enumerate("abc")],
    "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 2, "name": "bird"}],
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 5, "annotator": "ann"},
        {"id": 2, "image_id": 1, "category_id": 9, "annotator": "ann"},
        {"id": 3, "image_id": 0, "category_id": 5, "annotator": "ben"},
        {"id": 4, "image_id": 2, "category_id": 2, "annotator": "ben"},
    ],
}
RECORDS = [
    {"sample_id": sample, "annotator": who, "label": label}
    for who, given in BOTH.items()
    for sample, label in given.items()
]
LINES = "".join(f"{pd.Series(record).to_json()}\n" for record in RECORDS)

FORMS = [
    ("long", "t.csv", LONG),
    ("long", "t.csv.gz", LONG),
    ("long", "t.tsv", LONG.replace(",", "\t")),
    ("long", "t.jsonl", LINES),
    ("long", "t.jsonl.gz", LINES),
    ("long", "t.json", RECORDS),
    ("long", "t.json", MINIMAL),
    ("wide", "t.csv", WIDE),
    ("matrix", "t.csv", MATRIX),
    ("label_studio", "t.json", STUDIO),
    ("coco", "t.json", COCO),
]


@pytest.mark.parametrize(("form", "name", "content"), FORMS, ids=lambda v: str(v)[:12])
def test_every_form_is_found_and_says_the_same(
    tmp_path: Path, form: str, name: str, content: Any
) -> None:
    path = file(tmp_path / name, content)
    assert labels(path) == BOTH
    assert labels(path, form=form) == BOTH
    assert not errors(path, ["a.png", "b.png", "c.png"])


def test_parquet_has_numbers_categories_and_gaps(tmp_path: Path) -> None:
    frame = pd.read_csv(file(tmp_path / "m.csv", MATRIX))
    frame.to_parquet(tmp_path / "m.parquet")
    assert labels(tmp_path / "m.parquet") == BOTH
    frame[["ann", "ben"]] = frame[["ann", "ben"]].where(frame[["ann", "ben"]] >= 0)
    frame.to_parquet(tmp_path / "gaps.parquet")  # cleanlab's: NaN where nobody was asked
    assert labels(tmp_path / "gaps.parquet") == BOTH
    long = pd.read_csv(file(tmp_path / "l.csv", LONG), dtype="category")
    long.to_parquet(tmp_path / "l.parquet")
    assert labels(tmp_path / "l.parquet") == BOTH


def test_arrays_of_a_label_matrix(tmp_path: Path) -> None:
    matrix = np.array([[0, 0], [1, -1], [-1, 2]])
    ids = ["a.png", "b.png", "c.png"]
    np.savez(tmp_path / "m.npz", L=matrix, ids=ids, annotators=["ann", "ben"])
    assert labels(tmp_path / "m.npz") == BOTH
    np.save(tmp_path / "m.npy", matrix)
    beside = file(tmp_path / "ids.csv", "sample_id\n" + "\n".join(ids))
    found = labels(tmp_path / "m.npy", ids=str(beside), name="lf")
    assert found == {"lf_0": ANN, "lf_1": BEN}
    assert "sample_id" in one_error(tmp_path / "m.npy")
    np.save(tmp_path / "soft.npy", np.array([[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]))
    soft = answers(tmp_path / "soft.npy", ids=str(beside))["soft"]
    assert soft["a.png"].tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-6)


def test_indices_of_a_matrix_are_not_names(tmp_path: Path) -> None:
    path = file(tmp_path / "m.csv", "sample_id,ann\na,0\nb,-1\nc,2\n")
    numerals = ["2", "1", "0"]
    assert labels(path, numerals, form="matrix") == {"ann": {"a": "2", "c": "0"}}
    assert labels(path, numerals, form="wide") == {"ann": {"a": "0", "c": "2"}}


def test_numbered_annotators_are_told_from_numbered_classes(tmp_path: Path) -> None:
    votes = file(tmp_path / "votes.csv", "sample_id,0,1,2\na,0,0,\nb,,1,2\nc,2,,1\n")
    assert set(labels(votes)) == {"0", "1", "2"}
    soft = file(tmp_path / "soft.csv", "sample_id,0,1,2\na,0.2,0.8,0\nb,0,1,0\nc,1,0,0\n")
    torch.testing.assert_close(answers(soft)["soft"]["a"], torch.tensor([0.2, 0.8, 0]), atol=1e-3,
                               rtol=0)  # fmt: skip


def test_two_annotators_of_two_classes_are_no_probabilities(tmp_path: Path) -> None:
    path = file(tmp_path / "t.csv", "sample_id,ann,ben\na,0,1\nb,1,0\nc,0,1\nd,1,\n")
    assert set(labels(path, ["no", "yes"])) == {"ann", "ben"}


def test_votes_agree_with_crowd_kit_and_cleanlab(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [
            {"task": f"s{sample}", "annotator": f"w{who}", "label": int(rng.integers(0, 3))}
            for sample in range(60)
            for who in rng.choice(7, size=3, replace=False)
        ]
    ).sample(frac=1, random_state=0)
    long, wide = tmp_path / "long.csv", tmp_path / "wide.csv"
    frame.to_csv(long, index=False)
    table = convert_long_to_wide_dataset(frame)
    table.rename_axis("task").reset_index().to_csv(wide, index=False)
    for path in (long, wide):
        read = answers(path)
        tasks = sorted(table.index)
        votes = torch.stack([sum(rows[t] for rows in read.values() if t in rows) for t in tasks])
        clear = (votes == votes.max(1, keepdim=True).values).sum(1) == 1
        theirs = MajorityVote().fit_predict(frame.rename(columns={"annotator": "worker"}))
        ours = votes.argmax(1)[clear].tolist()
        assert ours == [int(theirs[task]) for task, one in zip(tasks, clear, strict=True) if one]
        wide_votes = table.loc[tasks].reset_index(drop=True)
        assert ours == get_majority_vote_label(wide_votes)[clear.numpy()].tolist()
        assert len(ours) > 20


def test_the_rest_of_a_confidence_is_spread_over_the_other_classes_of_the_scope(
    tmp_path: Path,
) -> None:
    text = (
        "sample_id,annotator,label,confidence\na,ann,cat,0.7\nb,ann,dog,\nc,ann,cat,0\nd,ann,,1\n"
    )
    path = file(tmp_path / "t.csv", text)
    read = answers(path)["ann"]
    torch.testing.assert_close(read["a"], torch.tensor([0.7, 0.15, 0.15]))
    assert read["b"].tolist() == [0, 1, 0]
    assert read["c"].tolist() == [0, 0.5, 0.5]
    assert read["d"].tolist() == [0, 0, 0]


def test_columns_of_other_names(tmp_path: Path) -> None:
    text = "photo,who,species,sure\na.png,ann,cat,0.5\n"
    columns = {"sample_id": "photo", "annotator": "who", "label": "species", "confidence": "sure"}
    assert answers(file(tmp_path / "t.csv", text), columns=columns)["ann"]["a.png"][0] == 0.5
    assert "sample_id" in one_error(tmp_path / "t.csv")
    wrong = one_error(tmp_path / "t.csv", columns={**columns, "annotator": "woh"})
    assert "did you mean 'who'" in wrong
    assert "columns.annotator" in wrong


BAD_JSON = [
    ({"x": {"y": 1}}, "unknown form"),
    ([1, 2], "unknown form"),
    ("{", "as JSON"),
    ([], "no rows"),
    ([{"id": 1, "data": {"image": "a"}, "predictions": []}], "annotations"),
    ([task("a.png", choice(1, "cat"), choice(1, "dog"))], "annotator '1' answers"),
    ([task("a.png", {"completed_by": 1, "result": [
        {"from_name": "x", "value": {"choices": ["cat", "dog"]}}]})], "2 classes"),
    ([task("a.png", {"completed_by": 1, "result": [
        {"from_name": "x", "value": {"choices": ["cat"]}},
        {"from_name": "y", "value": {"choices": ["yes"]}}]})], "columns.label"),
    ({**COCO, "images": []}, "image 0"),
    ({**COCO, "categories": [{"id": 5, "name": "cat"}]}, "category 9"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD_JSON)
def test_json_of_no_known_form(tmp_path: Path, content: Any, message: str) -> None:
    assert message in one_error(file(tmp_path / "t.json", content))


def test_skipped_tasks_have_no_answer(tmp_path: Path) -> None:
    content = [task("a.png", choice(3, "cat")), task("b.png", choice(3, "dog", skipped=True))]
    path = file(tmp_path / "t.json", content)
    assert labels(path) == {"3": {"a.png": "cat"}}
    assert answers(path)["3"]["b.png"].sum() == 0


def test_a_form_that_the_file_has_not(tmp_path: Path) -> None:
    assert "label_studio" in one_error(file(tmp_path / "t.csv", LONG), form="label_studio")
    assert "label_studio" in one_error(file(tmp_path / "t.json", COCO), form="label_studio")
    assert "annotator" in one_error(file(tmp_path / "t.csv", "task,label\na,cat\n"), form="long")


def test_without_classes_the_form_and_the_annotators_are_checked(tmp_path: Path) -> None:
    assert not errors(file(tmp_path / "t.csv", LONG.replace("dog", "dgo")), classes=None)
    (error,) = errors(file(tmp_path / "t.csv", LONG), classes=None, annotator="bem")
    assert error.nearest == ("ben",)
