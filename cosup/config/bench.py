"""Read a bench: methods x data sets x seeds, each cell of which is a run of its own.

    name: bench
    seeds: [0, 1, 2]
    data:
      digits: {base: quickstart, data: {limit: 500}}
    methods:
      plain: {rounds: {assignment: mean, loss: cross_entropy}}

An entry of `data` is a config, with `base` as in any config. An entry of `methods` holds the
settings in which a method differs; they replace those of the data set (`cosup.config.bases` says
how).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from cosup.config.bases import Layer, layers_of
from cosup.config.files import find_bench, read_text
from cosup.config.load import check_layers
from cosup.config.schema import Config, Seed, check_once
from cosup.config.yaml import describe_content, parse_yaml
from cosup.errors import Mistakes, UserError, unknown_name
from cosup.remote import is_uri
from cosup.sections import FileName, Section
from cosup.validation import find_mistakes

__all__ = ["Bench", "BenchCell", "BenchSection", "read_bench"]

MOST_ENTRIES = 1000
"""Data sets and methods of a bench; a table of more is read by nobody."""
HERE = "a folder of this machine"
OF_DATA = ("run",)
"""The section of a config that a bench sets itself."""
OF_METHODS = ("base", "data", "run")
"""The keys that a method cannot set: methods are compared on the same samples, seed by seed."""


class BenchSection(Section):
    """What a bench compares."""

    name: FileName = "bench"
    """The folder of the bench within `output`; a run is in its `DATA/METHOD/seed-K`."""
    output: str = "outputs"
    """The folder of this machine that holds the folder of the bench, and the cache of features that
    its runs share."""
    seeds: list[Seed] = Field(default=[0, 1, 2], min_length=1, max_length=1000)
    """Every method is run on every data set with each of these seeds. Intervals over seeds need
    two, and are narrow enough to tell methods apart from three; nothing is gained from more than
    1,000."""
    data: dict[FileName, dict[str, Any]] = Field(min_length=1, max_length=MOST_ENTRIES)
    """Data sets by name: a config each, which may extend another (`base`), without `run`."""
    methods: dict[FileName, dict[str, Any]] = Field(min_length=1, max_length=MOST_ENTRIES)
    """Methods by name: the settings of a config in which each differs, of any section but `data`
    and `run`, so that all are compared on the same samples."""
    baseline: str | None = None
    """The method from which differences are measured; null is the first."""

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: list[int]) -> list[int]:
        check_once("seed", seeds)
        return seeds

    @field_validator("output")
    @classmethod
    def _here(cls, output: str) -> str:
        if is_uri(output):
            raise UserError("must be {allowed}", value=output, allowed=HERE)
        return output

    @property
    def first(self) -> str:
        """The method from which differences are measured."""
        return next(iter(self.methods)) if self.baseline is None else self.baseline


@dataclass(frozen=True)
class BenchCell:
    """A run of a bench: a method on a data set with a seed."""

    data: str
    method: str
    config: Config

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.run.seed

    @property
    def name(self) -> str:
        """The name of the run in logs: `DATA/METHOD, seed K`."""
        return f"{self.data}/{self.method}, seed {self.seed}"


@dataclass(frozen=True)
class Bench:
    """A bench without mistakes.

    directory: its folder. cells: in the order in which they are run: all of the first seed, then
    those of the next, so that a bench that is stopped has a whole table of fewer seeds.
    """

    section: BenchSection
    directory: Path
    cells: tuple[BenchCell, ...]


def read_bench(given: Path, overrides: Sequence[str] = (), output: str | None = None) -> Bench:
    """Read a bench: a YAML file, or the name of one that comes with cosup.

    overrides: `section.key=value`, for the config of every cell. output: the folder of the bench,
    instead of `output/name`. Raises `UserError` with every mistake in the bench and in its configs.
    """
    path = find_bench(given)
    if output is not None and is_uri(output):
        raise UserError("must be {allowed}", key=("--output",), value=output, allowed=HERE)
    tree = parse_yaml(read_text(path), str(path))
    if not isinstance(tree, dict):
        what = f"a bench is a mapping ({', '.join(BenchSection.model_fields)})"
        raise UserError(f"{describe_content(tree)}; {what}", where=str(path))
    section, found = find_mistakes(BenchSection, tree)
    mistakes = Mistakes()
    mistakes.add(error.moved(where=str(path)) for error in found)
    mistakes.raise_all()
    mistakes.add(error.moved(where=str(path)) for error in _misplaced(section))
    mistakes.raise_all()
    configs: dict[tuple[str, str], Config] = {}
    for data, method in ((one, two) for one in section.data for two in section.methods):
        with mistakes.caught():
            configs[data, method] = _config(section, path, data, method, overrides)
    mistakes.raise_all()
    folder = Path(section.output) / section.name if output is None else Path(output)
    return Bench(section, folder, tuple(_cells(section, configs)))


def _misplaced(section: BenchSection) -> list[UserError]:
    """Return the keys that an entry cannot have, and a baseline that is no method."""
    found = []
    entries = (("data", section.data, OF_DATA), ("methods", section.methods, OF_METHODS))
    for part, given, keys in entries:
        what = "a config without run, which the bench sets" if part == "data" else "other sections"
        for name, entry in given.items():
            found += [
                UserError("cannot be set here", key=(part, name, key), allowed=what)
                for key in keys
                if key in entry
            ]
    if section.first not in section.methods:
        found.append(unknown_name("method", section.first, section.methods, key="baseline"))
    return found


def _config(
    section: BenchSection, path: Path, data: str, method: str, overrides: Sequence[str]
) -> Config:
    """Return the config of a method on a data set, with the first seed."""
    run = {
        "name": f"{data}-{method}",
        "output": section.output,
        "seed": section.seeds[0],
        "seeds": None,
    }
    own, *bases = layers_of(section.data[data], path)
    layers = [
        Layer(path, {"run": run}),
        Layer(Path(f"{path}: methods.{method}"), section.methods[method]),
        Layer(Path(f"{path}: data.{data}"), own.tree),
        *bases,
    ]
    config = check_layers(layers, overrides).checked()
    for key, value, allowed in _not_single(config):
        where = f"{path}: {data}/{method}"
        problem = "must be {allowed} in a bench"
        raise UserError(problem, key=key, value=value, allowed=allowed, where=where)
    return config


def _not_single(config: Config) -> list[tuple[str, object, str]]:
    """Return the settings with which a run is not that of one student in this process, each with
    its value and what is allowed."""
    found: list[tuple[str, object, str]] = []
    if config.rounds.losses is not None:
        found.append(("rounds.losses", len(config.rounds.losses), "null (give a method per loss)"))
    if config.execution.backend != "local":
        found.append(("execution.backend", config.execution.backend, "local"))
    return found


def _cells(section: BenchSection, configs: Mapping[tuple[str, str], Config]) -> list[BenchCell]:
    cells = []
    for seed in section.seeds:
        for (data, method), config in configs.items():
            run = config.run.model_copy(update={"seed": seed})
            cells.append(BenchCell(data, method, config.model_copy(update={"run": run})))
    return cells
