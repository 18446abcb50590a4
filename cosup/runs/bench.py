"""Run the cells of a bench (`cosup.config.bench`) that are not finished.

Each is an ordinary run in `DATA/METHOD/seed-K`. What does not depend on the method is computed once
per data set and seed, by the first run, and taken over by the others (`cosup.runs.losses`).
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cosup.analysis import load_run
from cosup.analysis.bench import BenchResult, bench_tables
from cosup.config.bench import Bench, BenchCell
from cosup.errors import RunError, UserError, in_short
from cosup.layout import Layout
from cosup.progress import working_on
from cosup.report.bench import BenchReport
from cosup.runs.bench_plan import CellState, chosen, directory_of, finished_in, state_of
from cosup.runs.side_by_side import Ready, SeedRun, places_for, run_side_by_side
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
    """Run the cells that are not finished. A cell that fails is reported, and the others go on.

    They run side by side, as the seeds of a run do (`execution.side_by_side`), or in turn.

    only: as for `chosen`. overwrite: run cells again whose config has changed, which fail without
    it. Raises `UserError` as `chosen`, and whatever stops the process (`KeyboardInterrupt`).
    """
    cells, failed = chosen(bench, only), dict[str, str]()
    states = {cell.name: state_of(bench, cell) for cell in cells}
    todo = [cell for cell in cells if states[cell.name].name != "finished"]
    done = len(cells) - len(todo)
    log.info("bench %s: %s, %d finished", bench.directory, plural(len(cells), "run"), done)

    def tell(name: str, error: Exception) -> None:
        own = isinstance(error, UserError | RunError)
        failed[name] = "; ".join(str(error).splitlines()) if own else in_short(error, named=True)
        log.error("%s failed: %s", name, failed[name])

    for cell in todo:
        try:
            _check(cell, states[cell.name], overwrite)
        except UserError as error:
            tell(cell.name, error)
    todo = [cell for cell in todo if cell.name not in failed]
    names = {cell.name for cell in todo}
    runs = {
        cell.name: _run_of(bench, cell, states[cell.name], _source(bench, cell, names))
        for cell in todo
    }
    try:
        _run_all(runs, todo, tell)
    except KeyboardInterrupt as error:
        error.add_note(f"finished runs are kept in {bench.directory}")
        raise
    return BenchRun(tuple(cell for cell in cells if cell.name not in failed), failed)


def _run_all(
    runs: Mapping[str, SeedRun],
    cells: Sequence[BenchCell],
    tell: Callable[[str, Exception], None],
) -> None:
    places = places_for(cells[0].config, len(runs)) if cells else []
    if len(places) > 1:
        log.info("%d at once", len(places))
        run_side_by_side(runs, places, ready=_ready(runs, cells), failed=tell, noun="runs")
        return
    for number, (name, run) in enumerate(runs.items(), start=1):
        log.info("run %d of %d: %s", number, len(runs), name)
        try:
            run.compute()
        except Exception as error:  # another cell may be right
            tell(name, error)


def _check(cell: BenchCell, state: CellState, overwrite: bool) -> None:
    """Raise `UserError` for a cell that cannot be run."""
    if state.name == "changed" and not overwrite:
        differs = f"its directory has a run with another config ({'; '.join(state.changes[:3])})"
        raise UserError(f"{differs}; --overwrite runs it again")
    if is_sharded(cell.config.data):
        raise UserError("samples that are not listed cannot be in a bench", key="data.sharded")


def _run_of(bench: Bench, cell: BenchCell, state: CellState, source: BenchCell) -> SeedRun:
    changed = state.name == "changed"
    shared = None if source.name == cell.name else directory_of(bench, source)
    directory = directory_of(bench, cell)
    return SeedRun(cell.config, directory, not changed, shared, overwrite=changed, check=True)


def _source(bench: Bench, cell: BenchCell, todo: Collection[str]) -> BenchCell:
    """Return the first cell that has the teachers of this one and is finished or to be run."""
    for other in bench.cells:
        if (other.data, other.seed) != (cell.data, cell.seed) or not _alike(cell, other):
            continue
        if other.name in (cell.name, *todo) or state_of(bench, other).name == "finished":
            return other
    return cell


def _alike(one: BenchCell, other: BenchCell) -> bool:
    return all(getattr(one.config, name) == getattr(other.config, name) for name in SHARED)


def _ready(runs: Mapping[str, SeedRun], cells: Sequence[BenchCell]) -> Ready:
    """Return which cells may start: those whose teachers no other is about to make, and whose
    features no other is extracting."""
    data = {cell.name: cell.data for cell in cells}
    by_directory = {run.directory: name for name, run in runs.items()}

    def ready(name: str, running: Collection[str], waiting: Collection[str]) -> bool:
        shared = runs[name].shared
        if shared is not None and by_directory.get(shared) in (*running, *waiting):
            return False
        beside = (runs[one] for one in running if data[one] == data[name])
        return all(Layout(one.directory).stage("features").exists() for one in beside)

    return ready


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
