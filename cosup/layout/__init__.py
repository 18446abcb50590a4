"""The files of a run directory: `Layout(path)` names each of them, with its reader and writer.

Every file is an object with `path`, `exists`, `read` and `write` (`cosup.layout.kinds`). No other
module spells the name of a file or folder of a run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cosup.layout.kinds import (
    File,
    JsonFile,
    LinesFile,
    ProbFile,
    StageFile,
    TableFile,
    TensorFile,
    YamlFile,
    check_samples,
)

if TYPE_CHECKING:
    from cosup.probabilities import ProbTable

__all__ = [
    "AnnotationFiles",
    "File",
    "JsonFile",
    "Layout",
    "LinesFile",
    "ProbFile",
    "ReviewFiles",
    "RoundFiles",
    "StageFile",
    "TableFile",
    "TeacherFiles",
    "TensorFile",
    "YamlFile",
]

MARKER = ".cosup-run.json"
"""The file that tells a run directory from any other folder."""
LOCK = ".lock"
PENDING = ".state"
"""The suffix of the saved state of an unfinished training."""
PREPARED = "prepared"
"""The stage that records classes, domains and teachers."""


@dataclass(frozen=True)
class TeacherFiles:
    """The teachers of a run: a record and weights for each, and states of unfinished trainings."""

    folder: Path

    def record(self, name: str) -> JsonFile:
        """Return the file of a teacher's kind, level, scope, steps and identity."""
        return JsonFile(self.folder / f"{name}.json")

    def records(self) -> list[JsonFile]:
        """Return the records that are there, ordered by name."""
        return [JsonFile(path) for path in sorted(self.folder.glob("[!.]*.json"))]

    def weights(self, name: str) -> TensorFile:
        """Return the file of a teacher's weights."""
        return TensorFile(self.folder / f"{name}.safetensors")

    def pending(self, name: str) -> Path:
        """Return the path of the state of an unfinished training."""
        return self.folder / f"{name}{PENDING}"


@dataclass(frozen=True)
class AnnotationFiles:
    """The annotations of a run: one file per split, teacher and shard, and a manifest."""

    folder: Path

    @property
    def manifest(self) -> JsonFile:
        """Return the file of what was annotated, and under which key."""
        return JsonFile(self.folder / "manifest.json")

    def shard(self, split: str, teacher: str, number: int) -> ProbFile:
        """Return the file of one shard."""
        return ProbFile(self.folder / split / teacher / f"{number:05d}.safetensors")

    def shards(self, split: str, teacher: str) -> list[ProbFile]:
        """Return the shards that are there, in order."""
        paths = (self.folder / split / teacher).glob("[!.]*.safetensors")
        return [ProbFile(path) for path in sorted(paths)]

    def read(self, split: str, teacher: str, num_classes: int, samples: int) -> "ProbTable":
        """Return all annotations of a split by a teacher, which must be so many samples."""
        import torch

        from cosup.probabilities import ProbTable

        parts = [shard.read(num_classes) for shard in self.shards(split, teacher)]
        check_samples(self.folder / split / teacher, sum(map(len, parts)), samples)
        empty = ProbTable.compress(torch.zeros(0, num_classes))
        return ProbTable.concat(parts) if parts else empty


@dataclass(frozen=True)
class RoundFiles:
    """The files of one round. folder: its checkpoint."""

    decisions: TableFile
    folder: Path

    @property
    def student(self) -> TensorFile:
        """Return the file of the student's weights after the round."""
        return TensorFile(self.folder / "student.safetensors")

    @property
    def train(self) -> ProbFile:
        """Return the file of the student's probabilities of student_train."""
        return ProbFile(self.folder / "train.safetensors")

    @property
    def cross_fitted(self) -> ProbFile:
        """Return the file of the student's cross-fitted probabilities of student_train, for a last
        round whose `train` are not."""
        return ProbFile(self.folder / "cross-fitted.safetensors")

    @property
    def test(self) -> ProbFile:
        """Return the file of the student's probabilities of the test samples."""
        return ProbFile(self.folder / "test.safetensors")

    @property
    def assigner(self) -> TensorFile:
        """Return the file of the fitted assigner, for one that has a state."""
        return TensorFile(self.folder / "assigner.safetensors")


@dataclass(frozen=True)
class ReviewFiles:
    """The files of the review of a run by a person."""

    folder: Path

    @property
    def pool(self) -> TableFile:
        """Return the table of all images that may be reviewed, and what sources say of them."""
        return TableFile(self.folder / "pool.parquet", ("sample_id", "group", "reason", "label"))

    @property
    def questions(self) -> Path:
        """Return the path of the table that a person fills in."""
        return self.folder / "next.csv"

    @property
    def page(self) -> Path:
        """Return the path of the page that shows these images."""
        return self.folder / "next.html"

    @property
    def answers(self) -> TableFile:
        """Return the table of all answers so far."""
        return TableFile(self.folder / "answers.parquet", ("sample_id", "label", "reason"))

    @property
    def estimates(self) -> JsonFile:
        """Return the file of what the answers tell of every source."""
        return JsonFile(self.folder / "estimates.json")


SAMPLE_COLUMNS = ("split", "sample_id", "true_label", "domain", "group", "answer")
DECISION_COLUMNS = (
    "sample_id",
    "round",
    "level",
    "assigned_teacher",
    "assignment_weight",
    "annotation",
    "annotation_confidence",
    "kept",
    "rejected_by",
    "true_label",
    "domain",
)

LABEL_COLUMNS = (
    "sample_id",
    "label",
    "probability",
    "source",
    "teacher",
    "kept",
    "rejected_by",
    "runner_up",
    "runner_up_probability",
    "review_rank",
)


@dataclass(frozen=True)
class Layout:
    """The files of the run in a directory, there or not."""

    path: Path

    @property
    def marker(self) -> JsonFile:
        """Return the file that makes the directory a run's: its format and its config's hash."""
        return JsonFile(self.path / MARKER)

    @property
    def lock(self) -> Path:
        """Return the path of the lock that the writing process holds."""
        return self.path / LOCK

    @property
    def config(self) -> YamlFile:
        """Return the file of the resolved config."""
        return YamlFile(self.path / "config.yaml")

    @property
    def environment(self) -> JsonFile:
        """Return the file of versions, machine, device, commit and command."""
        return JsonFile(self.path / "environment.json")

    @property
    def summary(self) -> JsonFile:
        """Return the file of the run's numbers; it is written when the run is finished."""
        return JsonFile(self.path / "summary.json")

    @property
    def metrics(self) -> LinesFile:
        """Return the file of scalars over steps."""
        return LinesFile(self.path / "metrics.jsonl")

    @property
    def loggers(self) -> Path:
        """Return the folder in which loggers remember what they need to continue."""
        return self.path / "loggers"

    @property
    def log(self) -> Path:
        """Return the path of the run's log."""
        return self.path / "log.txt"

    @property
    def samples(self) -> TableFile:
        """Return the table of samples: student_train, then test."""
        return TableFile(self.path / "samples.parquet", SAMPLE_COLUMNS)

    @property
    def labels(self) -> TableFile:
        """Return the table of the final labels of student_train."""
        return TableFile(self.path / "labels.parquet", LABEL_COLUMNS)

    @property
    def labels_csv(self) -> Path:
        """Return the path of the same table as CSV."""
        return self.path / "labels.csv"

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
        return StageFile(self.stages / f"{name}.json")

    def finished_stages(self) -> dict[str, StageFile]:
        """Return the stages that are there by name, in the order in which they were finished."""
        files = sorted(self.stages.glob("[!.]*.json"), key=lambda path: path.stat().st_mtime)
        return {path.stem: StageFile(path) for path in files}

    def round(self, number: int) -> RoundFiles:
        """Return the files of a round (from 1)."""
        decisions = self.path / "decisions" / f"round-{number}.parquet"
        return RoundFiles(
            TableFile(decisions, DECISION_COLUMNS), self.checkpoints / f"round-{number}"
        )

    @property
    def checkpoints(self) -> Path:
        """Return the folder of students, predictions and states of unfinished trainings."""
        return self.path / "checkpoints"

    @property
    def training(self) -> Path:
        """Return the folder of the states of the student's unfinished trainings."""
        return self.checkpoints / "training"

    @property
    def team(self) -> ProbFile:
        """Return the file of the team's probabilities of the test samples."""
        return ProbFile(self.checkpoints / "team.safetensors")

    @property
    def student_and_team(self) -> ProbFile:
        """Return the file of the probabilities by student and team of the test samples."""
        return ProbFile(self.checkpoints / "student-and-team.safetensors")

    @property
    def posterior(self) -> ProbFile:
        """Return the file of the posterior of the true class of student_train, from all sources."""
        return ProbFile(self.checkpoints / "posterior.safetensors")

    def control(self, name: str) -> ProbFile:
        """Return the file of a control's probabilities of the test samples."""
        return ProbFile(self.checkpoints / f"control-{name}.safetensors")

    def episode_answers(self, teacher: str) -> ProbFile:
        """Return the file of a teacher's probabilities of the queries of episodes."""
        return ProbFile(self.checkpoints / f"teacher-{teacher}.safetensors")

    @property
    def correct(self) -> TensorFile:
        """Return the file of which test samples the last student has right, and their groups."""
        return TensorFile(self.checkpoints / "test-correct.safetensors")

    @property
    def student(self) -> Path:
        """Return the folder of the exported student."""
        return self.path / "student"

    @property
    def page(self) -> Path:
        """Return the path of the report's page."""
        return self.path / "report" / "index.html"

    @property
    def thumbnails(self) -> TableFile:
        """Return the table of the report's pictures, as PNG."""
        return TableFile(self.path / "report" / "thumbnails.parquet", ("sample_id", "png"))

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
        """Return whether the directory is a run's, or holds the runs of several seeds or losses."""
        return self.marker.exists()

    def has_records(self) -> bool:
        """Return whether the directory is that of a single run which has finished a stage."""
        return self.is_run() and self.stages.is_dir()

    def runs_below(self) -> "list[Layout]":
        """Return the single runs up to two levels below: of seeds, losses, a folder of runs."""
        markers = [path for depth in ("*", "*/*") for path in self.path.glob(f"{depth}/{MARKER}")]
        found = sorted(marker.parent for marker in markers)
        return [run for run in map(Layout, found) if run.has_records()]
