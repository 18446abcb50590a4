"""The cells of a bench (`cosup.config.bench`) on disk: where each is, and how far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup.config import config_differences, config_hash, config_tree
from cosup.config.bench import Bench, BenchCell
from cosup.errors import UserError, unknown_name
from cosup.layout import Layout
from cosup.manifest import Damaged
from cosup.words import listed, plural

__all__ = [
    "CellState",
    "chosen",
    "directory_of",
    "finished_in",
    "plan_bench",
    "plan_table",
    "state_of",
]

FILTERS = ("data", "method", "seed")
"""What `--only` selects by."""


@dataclass(frozen=True)
class CellState:
    """How far a cell is: `finished`, `started`, `new`, or `changed` where its directory has the run
    of another config; `changes` are then the settings that differ."""

    name: str
    changes: tuple[str, ...] = ()


def directory_of(bench: Bench, cell: BenchCell) -> Path:
    """Return the directory of a cell's run."""
    return Layout(bench.directory / cell.data / cell.method).of_seed(cell.seed).path


def chosen(bench: Bench, only: Sequence[str]) -> list[BenchCell]:
    """Return the cells that `--only` selects, in order; all of them without any.

    only: `data=NAME[,NAME]`, `method=NAME[,NAME]` or `seed=K[,K]`; a cell must satisfy all. Raises
    `UserError` for what the bench does not have.
    """
    section = bench.section
    known = {
        "data": list(section.data),
        "method": list(section.methods),
        "seed": [str(seed) for seed in section.seeds],
    }
    wanted = {name: set(values) for name, values in known.items()}
    for text in only:
        name, equals, values = text.partition("=")
        if not equals or name not in known:
            allowed = f"{listed([f'{one}=NAME' for one in FILTERS])}, with commas between names"
            raise UserError("write it as {allowed}", key=("--only",), value=text, allowed=allowed)
        names = [one.strip() for one in values.split(",")]
        for one in names:
            if one not in known[name]:
                raise unknown_name(name, one, known[name], key=("--only",))
        wanted[name] &= set(names)
    return [
        cell
        for cell in bench.cells
        if cell.data in wanted["data"]
        and cell.method in wanted["method"]
        and str(cell.seed) in wanted["seed"]
    ]


def state_of(bench: Bench, cell: BenchCell) -> CellState:
    """Return how far a cell is."""
    files = Layout(directory_of(bench, cell))
    if not files.is_run():
        return CellState("new")
    try:
        if files.marker.read()["config_hash"] != config_hash(cell.config):
            changes = config_differences(files.config.read(), config_tree(cell.config))
            return CellState("changed", tuple(changes) or ("how the config is hashed",))
    except Damaged:  # it is resumed, which repairs it or tells why not
        return CellState("started")
    return CellState("finished" if files.stage("summary").exists() else "started")


def finished_in(bench: Bench, cells: Iterable[BenchCell]) -> list[BenchCell]:
    """Return the cells that are finished."""
    return [cell for cell in cells if state_of(bench, cell).name == "finished"]


def plan_bench(bench: Bench, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return how far each cell is that `--only` selects, as plain values."""
    found = [(cell, state_of(bench, cell)) for cell in chosen(bench, only)]
    return [
        {
            "data": cell.data,
            "method": cell.method,
            "seed": cell.seed,
            "state": state.name,
            "changes": list(state.changes),
            "directory": str(directory_of(bench, cell)),
        }
        for cell, state in found
    ]


def plan_table(bench: Bench, cells: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return what `plan_bench` found as a table: the finished seeds of each method, by data set."""
    finished = [cell for cell in cells if cell["state"] == "finished"]
    title = f"{bench.directory}: {len(finished)} of {plural(len(cells), 'run')} finished, by seed"
    table = Table()
    table.add_column("method", overflow="fold")
    names = list(dict.fromkeys(cell["data"] for cell in cells))
    for name in names:
        table.add_column(Text(name))
    for method in dict.fromkeys(cell["method"] for cell in cells):
        own = [cell for cell in cells if cell["method"] == method]
        table.add_row(
            Text(method), *(_seeds([c for c in own if c["data"] == name]) for name in names)
        )
    changed = [cell for cell in cells if cell["state"] == "changed"]
    lines = [
        f"{cell['data']}/{cell['method']}, seed {cell['seed']} has another config than before "
        f"({'; '.join(cell['changes'][:3])}); --overwrite runs it again"
        for cell in changed
    ]
    return Group(Text(title), table, *map(Text, lines))


def _seeds(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return `0, 1; started: 2`."""
    parts = []
    for state in ("finished", "started", "changed", "new"):
        seeds = [str(cell["seed"]) for cell in cells if cell["state"] == state]
        if seeds:
            parts.append(f"{'' if state == 'finished' else f'{state}: '}{', '.join(seeds)}")
    return "; ".join(parts)
