"""Any bytes in a run's directory: what is read of it is right, or one line says what is wrong.

The run has no manifest, so that every reader has to take what somebody else wrote.
"""

import io
import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers.fuzzing import budgets, changed, damaged, hold, json_bytes, refusal
from helpers.synthetic_run import Shape, make_run
from hypothesis import strategies as st

from cosup.analysis import records
from cosup.errors import RunError
from cosup.report.page import write_report

SMALL = Shape(train=40, test=24, levels=(1, 2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small run, as a run directory is written."""
    path = make_run(tmp_path_factory.mktemp("fuzz") / "run", SMALL)
    (path / "manifest.jsonl").unlink(missing_ok=True)
    return path


def read(path: Path) -> None:
    """Read all that a run's directory says."""
    run = records.load_run(path)
    kinds = (property, cached_property)
    for name in sorted(name for name, kind in vars(records.Run).items() if isinstance(kind, kinds)):
        getattr(run, name)
    for teacher in run.teacher_names:
        run.annotations(teacher)
    for kind, who in run.predictors():
        run.probs(kind, who)


def report(path: Path) -> None:
    """Write the page, which reads everything and compares it."""
    write_report(records.load_run(path), path.parent / "page" / "index.html")


def check(read: Callable[[Path], None], whole: Path, folder: Path, name: str, new: bytes) -> None:
    """Read a copy of the run with other content in one file."""
    path = folder / "run"
    shutil.copytree(whole, path)
    (path / name).write_bytes(new)
    try:
        refusal(read, path)
    except RunError as error:
        one_line = str(error).isprintable()
    else:
        one_line = True
    finally:
        shutil.rmtree(path)
    assert one_line


def contents(whole: Path, *endings: str) -> list[tuple[str, bytes]]:
    """Return the files with these endings, by their path in the run."""
    files = sorted(path for path in whole.rglob("*") if path.name.endswith(endings))
    return [(path.relative_to(whole).as_posix(), path.read_bytes()) for path in files]


def test_the_run_is_valid(whole: Path) -> None:
    """What is damaged below is right before."""
    read(whole)


@budgets
def test_any_bytes_in_a_run(examples: int, whole: Path, tmp_path: Path) -> None:
    endings = (".json", ".jsonl", ".yaml", ".parquet", ".safetensors")
    files = st.sampled_from(contents(whole, *endings))
    choice = files.flatmap(lambda file: st.tuples(st.just(file[0]), damaged(file[1])))
    hold(lambda file: check(read, whole, tmp_path, *file), examples // 4, file=choice)


@budgets
@pytest.mark.parametrize("reader", [read, report])
def test_any_values_in_a_run(
    reader: Callable[[Path], None], examples: int, whole: Path, tmp_path: Path
) -> None:
    files = [
        *((name, json.loads(content)) for name, content in contents(whole, ".json")),
        ("config.yaml", yaml.safe_load((whole / "config.yaml").read_bytes())),
        ("metrics.jsonl", list(map(json.loads, (whole / "metrics.jsonl").open()))),
    ]

    def prop(file: tuple[str, Any]) -> None:
        name, tree = file
        rows = name.endswith("l") and isinstance(tree, list)  # JSON is YAML, too
        written = b"\n".join(map(json_bytes, tree)) if rows else json_bytes(tree)
        check(reader, whole, tmp_path, name, written)

    choice = st.sampled_from(files).flatmap(lambda f: st.tuples(st.just(f[0]), changed(f[1])))
    hold(prop, examples // (4 if reader is read else 20), file=choice)


@budgets
def test_any_table_in_a_run(examples: int, whole: Path, tmp_path: Path) -> None:
    """Columns are missing, have other types, or rows of other samples."""
    tables = {name: pd.read_parquet(whole / name) for name, _ in contents(whole, ".parquet")}

    def prop(name: str, column: int, how: str) -> None:
        table, at = tables[name], column % tables[name].shape[1]
        if how == "dropped":
            table = table.drop(columns=table.columns[at])
        elif how == "cut":
            table = table.iloc[: len(table) // 2]
        elif how == "reversed":
            table = table.iloc[::-1]
        else:
            value = {"text": "\x1b[2J", "number": 10**9, "none": None, "negative": -5, "nan": 1e999}
            table = table.assign(**{table.columns[at]: [value[how]] * len(table)})
        file = io.BytesIO()
        table.to_parquet(file)
        check(read, whole, tmp_path, name, file.getvalue())

    hows = st.sampled_from(["dropped", "cut", "reversed", "text", "number", "none", "negative"])
    names = st.sampled_from(sorted(tables))
    hold(prop, examples // 4, name=names, column=st.integers(0, 30), how=hows)
