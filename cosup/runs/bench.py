"""Run the cells of a bench (`cosup.config.bench`) that are not finished, one after the other.

Each is an ordinary run in `DATA/METHOD/seed-K`. What does not depend on the method is computed once
per data set and seed, by the first run, and taken over by the others (`cosup.runs.losses`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosup.analysis import load_run
from cosup.analysis.bench import BenchResult, bench_tables
from cosup.config.bench import Bench, BenchCell
from cosup.config.schema import Config
from cosup.errors import UserError, in_short
from cosup.progress import working_on
from cosup.report.bench import BenchReport
from cosup.runs import check_run
from cosup.runs.bench_plan import chosen, directory_of, finished_in, state_of
from cosup.runs.pipeline import run_one
from cosup.sharded.opening import is_sharded
from cosup.words import plural

__all__ = ["BenchRun", "report_bench", "run_bench"]

log = logging.getLogger(__name__)

SHARED = ("data", "teachers", "student", "controls")
"""The sections in which runs must be equal to share teachers, annotations and features."""


@dataclass(frozen=True)
class BenchRun:
    """What came of the cells of a bench. failed: why each that is not finished is not."""

    finished: tuple[BenchCell, ...]
    failed: Mapping[str, str]


def run_bench(bench: Bench, only: Sequence[str] = (), overwrite: bool = False) -> BenchRun:
    """Run the cells that are not finished. A cell that fails is told, and the others go on.

    only: as for `chosen`. overwrite: run cells again whose config has changed, which fail without
    it. Raises `UserError` as `chosen`, and whatever stops the process (`KeyboardInterrupt`).
    """
    cells, failed = chosen(bench, only), dict[str, str]()
    done = len(finished_in(bench, cells))
    log.info("bench %s: %s, %d finished", bench.directory, plural(len(cells), "run"), done)
    for number, cell in enumerate(cells, start=1):
        try:
            _run(bench, cell, overwrite, f"{number} of {len(cells)}")
        except Exception as error:  # another cell may be right
            known = isinstance(error, UserError)
            failed[cell.name] = _in_line(error) if known else in_short(error, named=True)
            log.error("%s failed: %s", cell.name, failed[cell.name])
    return BenchRun(tuple(cell for cell in cells if cell.name not in failed), failed)


def _run(bench: Bench, cell: BenchCell, overwrite: bool, place: str) -> None:
    """Run a cell, unless it is finished."""
    state = state_of(bench, cell)
    if state.name == "finished":
        return
    log.info("run %s: %s", place, cell.name)
    changed = state.name == "changed"
    if changed and not overwrite:
        differs = f"its directory has a run with another config ({'; '.join(state.changes[:3])})"
        raise UserError(f"{differs}; --overwrite runs it again")
    if is_sharded(cell.config.data):
        raise UserError("samples that are not listed cannot be in a bench", key="data.sharded")
    directory, resume = directory_of(bench, cell), state.name == "started"
    check_run(cell.config, directory, resume, changed)
    shared = _shared(bench, cell)
    run_one(cell.config, directory, resume=not changed, overwrite=changed, shared=shared)


def _in_line(error: BaseException) -> str:
    return "; ".join(str(error).splitlines())


def _shared(bench: Bench, cell: BenchCell) -> Path | None:
    """Return the directory of a finished run from which this one may take its teachers."""
    for other in bench.cells:
        if other.name == cell.name or (other.data, other.seed) != (cell.data, cell.seed):
            continue
        if _alike(cell.config, other.config) and state_of(bench, other).name == "finished":
            return directory_of(bench, other)
    return None


def _alike(one: Config, other: Config) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in SHARED)


def report_bench(bench: Bench) -> BenchReport:
    """Return the tables of all runs of a bench that are finished."""
    section, cells = bench.section, finished_in(bench, bench.cells)
    with working_on("reading runs", len(cells)) as advance:
        results = []
        for cell in cells:
            run = load_run(directory_of(bench, cell))
            results.append(BenchResult(cell.data, cell.method, cell.seed, run))
            advance(1)
    data, methods = list(section.data), list(section.methods)
    tables = bench_tables(results, data, methods, section.first)
    return BenchReport(section.name, tables, data, methods, section.first, len(section.seeds))
