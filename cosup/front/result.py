"""A run as an object: its result, its student, its labels and all its records."""

import webbrowser
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cosup.analysis import records
from cosup.cells import from_cells
from cosup.errors import UserError
from cosup.files import write_csv
from cosup.layout import Layout
from cosup.origins import has_folder, obtain_below
from cosup.remote import Place
from cosup.remote_copy import folder_of, place_of
from cosup.runs import describe_run
from cosup.runs.notebook import as_html
from cosup.student.exported import ExportedStudent, load_student
from cosup.words import listed, percent

__all__ = ["Run", "load_run", "opened"]


class Run(records.Run):
    """A run: what `cosup.run` and `cosup.load_run` return.

        run.accuracy                  # of the student on the test split, a fraction
        run.summary                   # all numbers, as in summary.json
        run.student().predict(paths)  # the trained model
        run.labels()                  # the final label of each image that the student learned from
        run.report()                  # the path of the HTML report
        run.decisions, run.samples, run.predictions     # the records, as DataFrames

    `print(run)` tells what to use; a notebook shows the main table too. Everything is read when it
    is first used. The functions of `cosup.analysis` take a run: `cosup.analysis.tables(run)`.

    path: the run's directory, or the local copy of a run at a URI. place: what to print for it.
    config: the resolved config, as nested plain values. runs: the runs of several seeds or losses
    by name (`seed-0`, `distillation`); such a run has their means in `summary` and no records of
    its own. An unfinished run has the records of its finished stages.
    """

    @property
    def runs(self) -> "dict[str, Run]":
        """The single runs by name, where this one is of several seeds or losses; else {}."""
        return {}

    @property
    def accuracy(self) -> float | None:
        """The student's accuracy on the test split; the mean, where there are several seeds.

        None without labelled test images, and for an unfinished run.
        """
        found: float | None = self.summary.get("student", {}).get("accuracy")
        return found

    def student(self, device: str = "auto", packages: Collection[str] = ()) -> ExportedStudent:
        """Load the trained student; `predict` of it takes paths, PIL images and tensors.

        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. packages: modules whose code you trust,
        which it may import (`call:MODULE:FUNCTION` of its team, `package:MODULE`). Raises
        `UserError` before the run is finished, and as `load_student`.
        """
        if not has_folder(self.files.student):
            raise self._lacks("student")
        return load_student(self.files.student, device, packages)

    def labels(self) -> pd.DataFrame:
        """Return the final labels, a row per sample of student_train (`labels.parquet`).

        Columns: sample_id, label, probability, source (teacher, student or both), teacher, kept,
        rejected_by, runner_up, runner_up_probability, review_rank (1 is the one to look at first).
        Those of a sharded run are read from all shards, and have no review_rank. Raises `UserError`
        before they are made.
        """
        if self.sharded:
            from cosup.runs.sharded_labels import label_tables

            return pd.concat(label_tables(self), ignore_index=True)
        if not self.files.labels.exists():
            raise self._lacks("labels")
        return self.files.labels.read()

    def report(self, show: bool = False) -> Path:
        """Return the path of the report, one HTML file; it is written if it is not there.

        Of a run at a URI it is the path of a local copy. show: open it in the browser.
        """
        from cosup.report.page import write_report  # imports what draws the figures

        page = self.files.page
        obtain_below(page.parent)
        if not (page.exists() and self.finished):
            page = write_report(self)
        if show:
            webbrowser.open(page.absolute().as_uri())
        return page

    def review(self, number: int = 100) -> pd.DataFrame:
        """Choose images that a person should label: half at random, half the most contested.

        Returns a row per image: sample_id, path, suggested, reason, and an empty column label to be
        filled in, for `read_answers`. `review/next.html` shows them with their pictures.
        """
        from cosup.runs.review import ask, to_fill_in

        ask(str(self.path), number)
        table, _ = to_fill_in(self)
        read = pd.read_csv(table, dtype="str", keep_default_na=False)
        return from_cells(read)

    def read_answers(self, answers: pd.DataFrame | str | Path) -> dict[str, Any]:
        """Read a person's labels, and return how often each source is right by them.

        answers: the table of `review` with its column label filled in as far as it goes, or the
        file of such a table. Returns the numbers in `review/estimates.json`. To measure the student
        with them and to learn from them, resume the run.
        """
        from cosup.runs.review import read, to_fill_in

        if isinstance(answers, pd.DataFrame):
            table, _ = to_fill_in(self)
            write_csv(table, answers)
            answers = table
        read(str(self.path), Path(answers))
        return self.files.review.estimates.read()

    def __str__(self) -> str:
        return "\n".join([f"{self.title} ({self.place}): {self._result()}", *self._advice()])

    def __repr__(self) -> str:
        return f"<run {self.title} in {self.place}: {self._result()}>"

    def _repr_html_(self) -> str:
        return as_html(
            describe_run(self.summary, place_of(self.path)) if self.summary else str(self)
        )

    def _result(self) -> str:
        """Return how good the result is, in a few words."""
        if not self.finished:
            return "unfinished"
        if self.accuracy is not None:
            return f"student right in {percent(self.accuracy)}"
        right = self.summary.get("labels", {}).get("estimated_right")
        return "finished" if right is None else f"labels right in {percent(right)}, by estimate"

    def _advice(self) -> list[str]:
        """Return the first sentence of the verdict: what to use."""
        return list(self.summary.get("verdict", []))[:1]

    def _lacks(self, what: str) -> UserError:
        why = "" if self.finished else f"; the run lacks {listed(self.missing, 3)}"
        return UserError(f"has no {what}{why}", where=f"run {self.place}")


class _Outline(Run):
    """A run over several seeds or losses, whose records are in the directories of the single runs.

    error: what is raised where a record is asked for.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        summary: Mapping[str, Any],
        runs: Mapping[str, Run],
        error: UserError,
    ) -> None:
        super().__init__(path)
        self.config, self.summary = dict(config), dict(summary)
        self.finished = bool(summary)
        self._runs, self._error = dict(runs), error

    @property
    def runs(self) -> dict[str, Run]:
        return dict(self._runs)

    @property
    def title(self) -> str:
        return self.name

    @property
    def accuracy(self) -> float | None:
        if "losses" in self.summary:
            raise self._error.moved()  # a copy: each has its own traceback
        return super().accuracy

    @property
    def files(self) -> Layout:
        raise self._error.moved()

    def _advice(self) -> list[str]:
        return list(self.summary.get("verdict", []))  # for each seed


def load_run(path: str | Path) -> Run:
    """Open the run in a directory or at a URI (`s3://bucket/runs/mine`), to use its result.

    The run may be unfinished. Of a run at a URI, files are copied into `COSUP_CACHE` when they are
    first used. Where the place holds a run of several seeds or losses, the single runs are in
    `runs`. Raises `UserError` for what is no run and for a URI that cannot be used, and
    `RunError` for one that cannot be read.
    """
    return _opened(folder_of(path))


def _opened(path: Path) -> Run:
    layout = Layout(path)
    inside = layout.runs_below() if layout.is_run() and not layout.has_records() else []
    if not inside:
        return Run(records.load_run(path).path)
    names = dict.fromkeys(run.path.relative_to(layout.path).parts[0] for run in inside)
    return _Outline(
        layout.path,
        layout.config.read(),
        layout.summary.read() if layout.summary.exists() else {},
        {name: _opened(layout.path / name) for name in names},
        _several(layout.path, list(names)),
    )


def opened(place: Path | Place) -> Run:
    """Return the run that has just been finished at a path or a URI."""
    return load_run(place if isinstance(place, Path) else place.uri)


def _several(path: Path, names: list[str]) -> UserError:
    return UserError(
        f"holds {len(names)} runs; take one of them, such as .runs[{names[0]!r}]",
        where=f"run {path}",
    )
