"""The files of a run directory: `Layout(path)` names each of them, with its reader and writer.

Every file is an object with `path`, `exists`, `read` and `write` (`cosup.layout.kinds`). No other
module spells the name of a file or folder of a run, or opens one to read it. What is written is
recorded in the run's manifest (`cosup.manifest`), and checked against it when it is read.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from cosup.errors import RunError, UserError
from cosup.layout import folders, schemas
from cosup.layout.folders import (
    AnnotationFiles,
    ReviewFiles,
    RoundFiles,
    ShiftedFiles,
    TeacherFiles,
)
from cosup.layout.kinds import (
    File,
    JsonFile,
    ProbFile,
    StageFile,
    TableFile,
    TensorFile,
    YamlFile,
    damaged,
)
from cosup.layout.lines import LinesFile
from cosup.layout.makers import maker_of_line
from cosup.manifest import MANIFEST, Manifest
from cosup.origins import has_folder, in_order, matching, named_below, obtain

__all__ = ["FORMAT", "LOCK", "MARKER", "PREPARED", "Layout"]

MARKER = ".cosup-run.json"
"""The file that tells a run directory from any other folder."""
LOCK = ".lock"
EVENTS = "events.out.tfevents.*"
PREPARED = "prepared"
"""The stage that records classes, domains and teachers."""
SHARDS = "shards"
"""The stage that has checked the images of shards and extracted their features."""
FORMAT = 2
"""The format of run directories that is written, and the newest that is read. Those of format 1
have no manifest."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The files of the run in a directory, there or not."""

    path: Path

    @property
    def manifest(self) -> Manifest:
        """Return the record of the sizes and digests of the files."""
        return Manifest(self.path)

    @property
    def marker(self) -> JsonFile:
        """Return the file that makes the directory a run's: its format and its config's hash."""
        return self._json(MARKER, schemas.Marker)

    @property
    def lock(self) -> Path:
        """Return the path of the lock that the writing process holds."""
        return self.path / LOCK

    @property
    def config(self) -> YamlFile:
        """Return the file of the resolved config."""
        return YamlFile(self.path / "config.yaml", self.manifest, schemas.ConfigTree)

    @property
    def environment(self) -> JsonFile:
        """Return the file of versions, machine, device, commit and command."""
        return self._json("environment.json", schemas.Environment)

    @property
    def summary(self) -> JsonFile:
        """Return the file of the run's numbers; it is written when the run is finished."""
        return self._json("summary.json", schemas.Summary)

    @property
    def metrics(self) -> LinesFile:
        """Return the file of scalars over steps."""
        path = self.path / "metrics.jsonl"
        return LinesFile(path, self.manifest, schemas.ScalarLine, maker_of_line)

    @property
    def loggers(self) -> Path:
        """Return the folder in which loggers remember what they need to continue."""
        return self.path / "loggers"

    def memory(self, logger: str) -> JsonFile:
        """Return the file in which a logger remembers what it needs to continue."""
        return JsonFile(self.loggers / logger / "run.json", self.manifest)

    @property
    def log(self) -> Path:
        """Return the path of the run's log."""
        return self.path / "log.txt"

    @property
    def events(self) -> list[File]:
        """Return the event files for TensorBoard that are there."""
        return [File(path, self.manifest) for path in matching(self.path, EVENTS)]

    def record_growth(self) -> None:
        """Record what was added to the files that grow: scalars, log, events."""
        self.metrics.record()
        for file in (File(self.log), *self.events):
            if file.exists():
                self.manifest.record_growth(file.path)

    @property
    def samples(self) -> TableFile:
        """Return the table of samples: student_train, then test."""
        return TableFile(self.path / "samples.parquet", self.manifest, schemas.SAMPLE_COLUMNS)

    @property
    def labels(self) -> TableFile:
        """Return the table of the final labels of student_train."""
        return TableFile(self.path / "labels.parquet", self.manifest, schemas.LABEL_COLUMNS)

    @property
    def labels_csv(self) -> File:
        """Return the same table as CSV."""
        return self.file(self.path / "labels.csv")

    @property
    def teachers(self) -> TeacherFiles:
        """Return the files of the teachers."""
        return TeacherFiles(self.path / "teachers")

    @property
    def annotations(self) -> AnnotationFiles:
        """Return the files of the annotations."""
        return AnnotationFiles(self.path / "annotations")

    @property
    def stages(self) -> Path:
        """Return the folder of the payloads of finished stages."""
        return self.path / "stages"

    def stage(self, name: str) -> StageFile:
        """Return the file of a stage's payload; it is there once the stage is finished."""
        content = schemas.stage_content(name)
        return StageFile(self.stages / f"{name}.json", self.manifest, content)

    def finished_stages(self) -> dict[str, StageFile]:
        """Return the stages that are there by name, in the order in which they were finished."""
        paths = matching(self.stages, "[!.]*.json")
        obtain(*paths)
        return {path.stem: self.stage(path.stem) for path in in_order(paths)}

    def round(self, number: int) -> RoundFiles:
        """Return the files of a round (from 1)."""
        name, manifest = f"round-{number}", self.manifest
        path = self.path / "decisions" / f"{name}.parquet"
        decisions = TableFile(path, manifest, schemas.DECISION_COLUMNS)
        return RoundFiles(decisions, self.checkpoints / name, manifest)

    @property
    def checkpoints(self) -> Path:
        """Return the folder of students, predictions and states of unfinished trainings."""
        return self.path / "checkpoints"

    @property
    def training(self) -> Path:
        """Return the folder of the states of the student's unfinished trainings."""
        return self.checkpoints / "training"

    @property
    def shards(self) -> Path:
        """Return the folder of what is computed shard by shard (`cosup.sharded.store`)."""
        return self.path / folders.SHARDS

    @property
    def shard_labels(self) -> Path:
        """Return the folder of the final labels of a sharded run: a Parquet file per shard."""
        return self.shards / "labels"

    @property
    def shard_index(self) -> TableFile:
        """Return the table of the files in `shards`; it is written when the run is finished."""
        return TableFile(self.path / "shards.parquet", self.manifest, schemas.SHARD_COLUMNS)

    def shifted(self, name: str) -> ShiftedFiles:
        """Return the files of a shifted test set."""
        return ShiftedFiles(self.path / "shifted" / name, self.manifest)

    @property
    def team(self) -> ProbFile:
        """Return the file of the team's probabilities of the test samples."""
        return self._probs("team.safetensors")

    @property
    def student_and_team(self) -> ProbFile:
        """Return the file of the probabilities by student and team of the test samples."""
        return self._probs("student-and-team.safetensors")

    @property
    def posterior(self) -> ProbFile:
        """Return the file of the posterior of the true class of student_train, from all sources."""
        return self._probs("posterior.safetensors")

    def control(self, name: str) -> ProbFile:
        """Return the file of a control's probabilities of the test samples."""
        return self._probs(f"control-{name}.safetensors")

    def episode_answers(self, teacher: str) -> ProbFile:
        """Return the file of a teacher's probabilities of the queries of episodes."""
        return self._probs(f"teacher-{teacher}.safetensors")

    @property
    def correct(self) -> TensorFile:
        """Return the file of which test samples the last student has right, and their groups."""
        return TensorFile(self.checkpoints / "test-correct.safetensors", self.manifest)

    @property
    def student(self) -> Path:
        """Return the folder of the exported student."""
        return self.path / "student"

    @property
    def page(self) -> Path:
        """Return the path of the report's page."""
        return self.path / "report" / "index.html"

    def file(self, path: Path) -> File:
        """Return a file that is only written; it is recorded if it is in the run."""
        place, folder = path.absolute(), self.path.absolute()
        if not place.is_relative_to(folder):
            return File(path)
        return File(self.path / place.relative_to(folder), self.manifest)

    @property
    def thumbnails(self) -> TableFile:
        """Return the table of the report's pictures, as PNG."""
        path = self.path / "report" / "thumbnails.parquet"
        return TableFile(path, self.manifest, ("sample_id", "png"))

    @property
    def review(self) -> ReviewFiles:
        """Return the files of the review by a person."""
        return ReviewFiles(self.path / "review")

    def of_seed(self, seed: int) -> "Layout":
        """Return the run of one seed, where several were run."""
        return Layout(self.path / f"seed-{seed}")

    def of_loss(self, name: str) -> "Layout":
        """Return the run of one loss, where several were run."""
        return Layout(self.path / name)

    def is_run(self) -> bool:
        """Return whether the directory is a run's, or holds the runs of several seeds or losses.

        A marker that is gone is known from the manifest.
        """
        if self.marker.exists():
            return True
        try:
            return MARKER in self.manifest.entries()
        except RunError:
            return False

    def check_format(self) -> None:
        """Raise what `format` does, and `Damaged` for a run whose manifest cannot be used. Log that
        a run of an older version cannot be checked."""
        found = self.format()
        if self.manifest.exists():
            self.manifest.entries()
        elif found == FORMAT:
            raise damaged(self.manifest.path, "the file is gone")
        else:
            log.info("%s is of an older format: nothing tells if its files are whole", self.path)

    def format(self) -> int:
        """Return the format of the run. Raises `UserError` for that of a newer version of cosup,
        and `Damaged` for a marker that is damaged."""
        found = int(self.marker.read()["format"])
        if found > FORMAT:
            raise UserError(
                f"was made by a newer version of cosup (format {found}; this one reads formats up "
                f"to {FORMAT})",
                where=f"run {self.path}",
            )
        return found

    def has_records(self) -> bool:
        """Return whether the directory is that of a single run which has finished a stage."""
        return self.is_run() and has_folder(self.stages)

    def runs_below(self) -> "list[Layout]":
        """Return the single runs up to two levels below: of seeds, losses, a folder of runs."""
        return [run for run in self.directories_below() if run.has_records()]

    def directories_below(self) -> "list[Layout]":
        """Return the run directories up to two levels below, also those that hold runs alone."""
        names = (MARKER, MANIFEST)
        found = {path.parent for depth in (1, 2) for path in named_below(self.path, depth, names)}
        return [run for run in map(Layout, sorted(found)) if run.is_run()]

    def _json(self, name: str, content: schemas.Content) -> JsonFile:
        return JsonFile(self.path / name, self.manifest, content)

    def _probs(self, name: str) -> ProbFile:
        return ProbFile(self.checkpoints / name, self.manifest)
