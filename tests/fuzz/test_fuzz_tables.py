"""Any bytes as a table of annotations, answers or samples: read, or refused with a line."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.fuzzing import budgets, changed, damaged, hold, json_bytes, refusal
from hypothesis import strategies as st

from cosup.config.teachers import TeachersSection
from cosup.data.answers import check_answers, read_answers
from cosup.data.sources.table import Table
from cosup.errors import UserError, raise_all
from cosup.teachers.tables.checks import check_tables

CLASSES = ["cat", "dog", "bird"]
IDS = [f"a/{number}.png" for number in range(6)]
LABELS = [
    {"sample_id": name, "label": CLASSES[number % 3], "confidence": 0.5 + number / 20}
    for number, name in enumerate(IDS)
]
LONG = [
    {"sample_id": row["sample_id"], "worker": w, "label": "cat"} for row in LABELS for w in "xy"
]
PROBABILITIES = [{"sample_id": name, "cat": 0.25, "dog": 0.5, "bird": 0.25} for name in IDS]
WIDE = [{"sample_id": name, "ann": "cat", "bob": "dog"} for name in IDS]
TASKS = [
    {
        "data": {"image": name},
        "annotations": [
            {
                "completed_by": {"email": "a@b.c", "id": 1},
                "was_cancelled": False,
                "result": [{"from_name": "kind", "value": {"choices": ["cat"]}}],
            }
        ],
    }
    for name in IDS[:2]
]
COCO = {
    "images": [{"id": number, "file_name": name} for number, name in enumerate(IDS[:3])],
    "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
    "annotations": [
        {"image_id": number, "category_id": 1, "score": 0.5, "annotator": "x"} for number in (0, 1)
    ],
}
SAMPLES = [{"path": name, "label": "cat", "split": "", "domain": "x"} for name in IDS]


def csv(rows: list[dict[str, Any]]) -> bytes:
    return pd.DataFrame(rows).to_csv(index=False).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pd.DataFrame(rows).to_parquet(file)
    return file.getvalue()


def arrays(**named: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **named)
    return file.getvalue()


def lines(rows: Any) -> bytes:
    return b"\n".join(map(json_bytes, rows if isinstance(rows, list) else [rows]))


MATRIX = np.array([[0, 1], [2, -1], [1, 1], [0, 0], [2, 2], [-1, -1]])
FILES: list[tuple[str, bytes]] = [
    *((ending, csv(rows)) for rows in (LABELS, LONG, WIDE, PROBABILITIES) for ending in (".csv",)),
    (".tsv", csv(LABELS).replace(b",", b"\t")),
    *((".parquet", parquet(rows)) for rows in (LABELS, LONG, PROBABILITIES)),
    *((".jsonl", lines(rows)) for rows in (LABELS, PROBABILITIES)),
    *((".json", json_bytes(tree)) for tree in (LABELS, TASKS, COCO)),
    *(
        (f"{kind}.gz", gzip.compress(content, mtime=0))
        for kind, content in (
            (".csv", csv(LABELS)),
            (".json", json_bytes(COCO)),
            (".jsonl", lines(LONG)),
        )
    ),
    (".npz", arrays(votes=MATRIX, ids=np.array(IDS), annotators=np.array(["ann", "bob"]))),
    (".npz", arrays(probs=np.full((6, 3), 1 / 3), ids=np.array(IDS))),
]
"""A valid file of each form and kind."""
TREES: list[tuple[str, Any]] = [
    *((".jsonl", rows) for rows in (LABELS, LONG, WIDE, PROBABILITIES)),
    *((".json", tree) for tree in (LABELS, TASKS, COCO, WIDE)),
]


def annotations(path: Path) -> None:
    section = {"hierarchy": None, "external": [{"name": "t", "annotations": str(path)}]}
    raise_all(check_tables(TeachersSection.model_validate(section), CLASSES, IDS))


def answers(path: Path) -> None:
    def fault(name: str) -> UserError | None:
        return None if name in IDS else UserError("unknown sample", value=name)

    check_answers(read_answers(path), CLASSES, fault, str(path))


def samples(path: Path) -> None:
    Table(str(path)).load()


@pytest.mark.parametrize(("ending", "content"), FILES, ids=[ending for ending, _ in FILES])
def test_the_files_are_valid(ending: str, content: bytes, tmp_path: Path) -> None:
    """What is damaged below is right before."""
    path = tmp_path / f"table{ending}"
    path.write_bytes(content)
    annotations(path)


def check(read: Callable[[Path], None], folder: Path, ending: str, content: bytes) -> None:
    """Read bytes as a new file: what was read of files is kept, by size and time."""
    check.number += 1  # type: ignore[attr-defined]
    path = folder / f"{check.number}{ending}"  # type: ignore[attr-defined]
    path.write_bytes(content)
    refusal(read, path)
    path.unlink()


check.number = 0  # type: ignore[attr-defined]


@budgets
def test_any_bytes_as_annotations(examples: int, tmp_path: Path) -> None:
    files = st.sampled_from(FILES).flatmap(lambda f: st.tuples(st.just(f[0]), damaged(f[1])))
    hold(lambda file: check(annotations, tmp_path, *file), examples, file=files)


@budgets
def test_any_values_as_annotations(examples: int, tmp_path: Path) -> None:
    trees = st.sampled_from(TREES).flatmap(lambda t: st.tuples(st.just(t[0]), changed(t[1])))

    def prop(tree: tuple[str, Any]) -> None:
        written = lines(tree[1]) if tree[0] == ".jsonl" else json_bytes(tree[1])
        check(annotations, tmp_path, tree[0], written)

    hold(prop, examples, tree=trees)


@budgets
@pytest.mark.parametrize(("read", "rows"), [(answers, LABELS), (samples, SAMPLES)])
def test_any_bytes_as_answers_and_samples(
    read: Callable[[Path], None], rows: list[dict[str, Any]], examples: int, tmp_path: Path
) -> None:
    files = [(".csv", csv(rows)), (".parquet", parquet(rows)), (".tsv", csv(rows))]
    choice = st.sampled_from(files).flatmap(lambda f: st.tuples(st.just(f[0]), damaged(f[1])))
    hold(lambda file: check(read, tmp_path, *file), examples, file=choice)


@budgets
@pytest.mark.parametrize("read", [annotations, answers, samples])
def test_any_values_in_parquet(read: Callable[[Path], None], examples: int, tmp_path: Path) -> None:
    """Parquet has types of its own: lists, times, bytes, numbers of any width."""
    cells = [
        pd.Series([b"\xff", b"a"]),
        pd.Series([[1], None]),
        pd.Series([np.array([1.0]), np.array([2.0])]),
        pd.Series([{"a": 1}, {"a": 2}]),
        pd.Series(pd.to_datetime(["2020-01-01", None])),
        pd.Series([True, None], dtype=object),
        pd.Series([np.nan, np.inf]),
        pd.Series([2**63, 2**64 - 1], dtype="uint64"),
        pd.Series(["cat", "dog"], dtype="category"),
        pd.Series(["a/0.png", "a/1.png"]),
        pd.Series(["cat", "\x1b[31m"]),
        pd.Series(pd.to_timedelta([1, 2], "s")),
        pd.Series([None, None], dtype=object),
    ]
    names = ["sample_id", "path", "label", "confidence", "worker", "cat", "dog", "bird", "split"]
    tables = st.dictionaries(st.sampled_from(names), st.integers(0, len(cells) - 1), min_size=1)

    def prop(columns: dict[str, int]) -> None:
        file = io.BytesIO()
        pd.DataFrame({name: cells[at] for name, at in columns.items()}).to_parquet(file)
        check(read, tmp_path, ".parquet", file.getvalue())

    hold(prop, examples // 2, columns=tables)
