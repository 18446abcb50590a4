"""The config, the finished stages and the teachers of a run, read when they are first used."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cosup.config.rounds import RoundsSection
from cosup.errors import RunError, UserError, in_short
from cosup.evidence import Scopes
from cosup.layout import PREPARED, Layout
from cosup.links import is_file_name
from cosup.origins import obtain, shown
from cosup.words import literal

__all__ = ["NOT_LISTED", "RunStages", "RunTeacher"]

NOT_LISTED = "the samples of student_train are not listed (data.sharded)"


@dataclass(frozen=True)
class RunTeacher:
    """A teacher of the hierarchy.

    classes, domains: its scope, as indices of the run's classes and domains; None: all. steps:
    optimizer steps of its training in this run. temperature: that calibrates it; 1 does nothing.
    """

    name: str
    level: int
    kind: str
    classes: tuple[int, ...] | None
    domains: tuple[int, ...] | None
    steps: int
    temperature: float = 1.0


class RunStages:
    """What is known of a run without its tables and predictions. path: its directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def place(self) -> str:
        """Where the run is, to be printed: its directory or its URI."""
        return shown(self.path)

    @property
    def files(self) -> Layout:
        """The files of the run."""
        return Layout(self.path)

    def __repr__(self) -> str:
        return f"<run {self.name} in {self.place}{'' if self.finished else ', unfinished'}>"

    @property
    def name(self) -> str:
        """The name in the config (`run.name`)."""
        return str(self.config.get("run", {}).get("name", self.path.name))

    @property
    def title(self) -> str:
        """The name of the directory, which `--output` may have set apart from `run.name`; of one
        seed or loss of a run, `run.name`."""
        path = self.path.resolve()
        return self.name if Layout(path.parent).is_run() else path.name

    @cached_property
    def finished(self) -> bool:
        """Whether the summary of the run is written."""
        return self.files.summary.exists()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`; {} for an unfinished run."""
        return self.files.summary.read() if self.finished else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, as a tree, with the recipe that the run chose if it has."""
        tree = self.files.config.read()
        if not tree.get("rounds", {}).get("choose"):
            return tree
        choice = self.stages.get("choose-recipe", {"chosen": None, "candidates": []})
        chosen = [one["rounds"] for one in choice["candidates"] if one["name"] == choice["chosen"]]
        defaults = RoundsSection().model_dump(mode="json")
        rounds = {**defaults, **tree["rounds"], **(chosen[0] if chosen else {})}
        return {**tree, "rounds": {**rounds, "choose": "auto"}}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """`environment.json`: versions, machine, device, commit, command."""
        file = self.files.environment
        return file.read() if file.exists() else {}

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The record of each finished stage by name, in the order in which they finished."""
        return {name: file.read() for name, file in self.files.finished_stages().items()}

    @cached_property
    def missing(self) -> list[str]:
        """The names of the records that a finished run has and this one lacks."""
        if not self.prepared:
            if self.finished:
                name = self.files.samples.path.name
                return [f"{name} (the run was made by an earlier version of cosup)"]
            return ["teachers, annotations, rounds and controls"]
        rounds = self.expected_rounds
        lacking = [f"round {n} of {rounds}" for n in range(1, rounds + 1) if n not in self.rounds]
        left_out = self.summary.get("controls_absent", {})
        asked = [name for name in self.config.get("controls", []) if name not in left_out]
        controls = [name for name in asked if name not in self.controls]
        lacking += [f"control {name}" for name in controls]
        return lacking if self.finished else [*lacking, "summary"]

    @cached_property
    def prepared(self) -> dict[str, Any]:
        """`stages/prepared.json` with classes, domains and teachers; {} before preparation."""
        return self.stages.get(PREPARED, {})

    @property
    def classes(self) -> list[str]:
        """The classes of teachers and student."""
        return list(self.prepared.get("classes", []))

    @property
    def domains(self) -> list[str]:
        """The domains; ["all"] if there are none."""
        return list(self.prepared.get("domains", []))

    @property
    def few_shot(self) -> bool:
        """Whether the student is evaluated on episodes of novel classes."""
        return self.config.get("data", {}).get("few_shot") is not None

    @property
    def expected_rounds(self) -> int:
        """The number of rounds in the config."""
        levels = {teacher.level for teacher in self.teachers}
        rounds = self.config.get("rounds", {})
        # The others may be unknown here: losses of packages, settings of other versions.
        counted = {key: rounds[key] for key in ("assignment", "repeat", "refine") if key in rounds}
        try:
            return RoundsSection.model_validate(counted).total(len(levels))
        except ValueError as error:
            problem = f"{self.files.config.path} is damaged: rounds: {in_short(error)}"
            raise RunError(problem) from None

    @cached_property
    def rounds(self) -> list[int]:
        """The numbers of the finished rounds, in order."""
        names = [name.removeprefix("round-") for name in self.stages if name.startswith("round-")]
        return sorted(int(name) for name in names)

    @cached_property
    def controls(self) -> list[str]:
        """The finished controls, in the order of the config."""
        return [
            name for name in self.config.get("controls", []) if f"control-{name}" in self.stages
        ]

    @cached_property
    def teachers(self) -> list[RunTeacher]:
        """The teachers of the hierarchy, level by level."""
        names = [entry["name"] for entry in self.prepared.get("teachers", [])]
        for name in names:
            if not is_file_name(str(name)):  # anybody may have written the run
                place = self.files.stage(PREPARED).path
                raise RunError(f"{place} is damaged: a teacher is named {literal(name)}")
        obtain(*(self.files.teachers.record(name).path for name in names))
        return [self._teacher(name) for name in names]

    @property
    def teacher_names(self) -> list[str]:
        """The names of the teachers."""
        return [teacher.name for teacher in self.teachers]

    @property
    def sharded(self) -> bool:
        """Whether the samples of student_train are not listed (`data.sharded`)."""
        return bool(self.prepared.get("shards")) or "shards" in self.summary.get("data", {})

    def check_listed(self, instead: str) -> None:
        """Raise `UserError` for a sharded run, with what to do instead."""
        if self.sharded:
            raise UserError(f"{NOT_LISTED}: {instead}", where=self.place)

    def scopes(self) -> Scopes:
        """Return the scopes of all teachers, in their order."""
        return Scopes.of(
            [teacher.classes for teacher in self.teachers],
            len(self.classes),
            [teacher.domains for teacher in self.teachers],
            len(self.domains),
            self.teacher_names,
        )

    def _teacher(self, name: str) -> RunTeacher:
        found = self.files.teachers.record(name).read()
        scope = [
            None if found[key] is None else tuple(found[key]) for key in ("classes", "domains")
        ]
        return RunTeacher(
            name,
            int(found["level"]),
            found["kind"],
            scope[0],
            scope[1],
            found["steps"],
            float(found.get("temperature", 1.0)),
        )
