"""The files of the parts of a run that have a folder: teachers, annotations, rounds and others."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cosup.layout import schemas
from cosup.layout.kinds import (
    File,
    JsonFile,
    ProbFile,
    TableFile,
    TensorFile,
    check_samples,
    damaged,
)
from cosup.manifest import Manifest
from cosup.origins import matching, obtain

if TYPE_CHECKING:
    from cosup.probabilities import ProbTable

__all__ = [
    "PENDING",
    "AnnotationFiles",
    "ReviewFiles",
    "RoundFiles",
    "ShiftedFiles",
    "TeacherFiles",
    "is_of_shards",
]

PENDING = ".state"
"""The suffix of the saved state of an unfinished training."""
SHARDS = "shards"
"""The folder of what is computed shard by shard."""
OF_ANY_NAME = frozenset({"annotations", "loggers", "shifted"})
"""Folders of a run that hold others, which have the names of teachers, loggers and test sets."""


def is_of_shards(name: str) -> bool:
    """Return whether a file, by its path in a run, is in the folder of shards of the run, of a seed
    or loss, or of a seed of a loss."""
    folders = PurePosixPath(name).parts[:-1]
    above = folders[: folders.index(SHARDS)] if SHARDS in folders else folders
    return len(above) < min(3, len(folders)) and not OF_ANY_NAME & set(above)


@dataclass(frozen=True)
class TeacherFiles:
    """The teachers of a run: a record and weights for each, and states of unfinished trainings."""

    folder: Path

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of the run that the folder is in."""
        return Manifest(self.folder.parent)

    def record(self, name: str) -> JsonFile:
        """Return the file of a teacher's kind, level, scope, steps and identity."""
        return JsonFile(self.folder / f"{name}.json", self.manifest, schemas.TeacherRecord)

    def records(self) -> list[JsonFile]:
        """Return the records that are there, ordered by name."""
        return [self.record(path.stem) for path in matching(self.folder, "[!.]*.json")]

    def weights(self, name: str) -> TensorFile:
        """Return the file of a teacher's weights."""
        return TensorFile(self.folder / f"{name}.safetensors", self.manifest)

    def pending(self, name: str) -> Path:
        """Return the path of the state of an unfinished training."""
        return self.folder / f"{name}{PENDING}"


@dataclass(frozen=True)
class AnnotationFiles:
    """The annotations of a run: one file per split, teacher and shard, and a manifest."""

    folder: Path

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of the run that the folder is in."""
        return Manifest(self.folder.parent)

    @property
    def index(self) -> JsonFile:
        """Return the file of what was annotated, and under which key."""
        return JsonFile(self.folder / "manifest.json", self.manifest, schemas.Annotations)

    def shard(self, split: str, teacher: str, number: int) -> ProbFile:
        """Return the file of one shard."""
        path = self.folder / split / teacher / f"{number:05d}.safetensors"
        return ProbFile(path, self.manifest)

    def shards(self, split: str, teacher: str) -> list[ProbFile]:
        """Return the shards that are there, in order."""
        paths = matching(self.folder / split / teacher, "[!.]*.safetensors")
        return [ProbFile(path, self.manifest) for path in paths]

    def read(self, split: str, teacher: str, num_classes: int, samples: int) -> "ProbTable":
        """Return all annotations of a split by a teacher, which must be so many samples."""
        import torch

        from cosup.probabilities import ProbTable

        shards = self.shards(split, teacher)
        obtain(*(shard.path for shard in shards))
        parts = [shard.read(num_classes) for shard in shards]
        if (found := sum(map(len, parts))) < samples:
            self._check_complete(split, teacher, samples)
        check_samples(self.folder / split / teacher, found, samples)
        empty = ProbTable.compress(torch.zeros(0, num_classes))
        return ProbTable.concat(parts) if parts else empty

    def _check_complete(self, split: str, teacher: str, samples: int) -> None:
        """Raise `Damaged` about the first shard that the index has, and that is gone."""
        index = self.index.read() if self.index.exists() else {}
        count = index.get(split, {}).get(teacher, {}).get("shards")
        if not isinstance(count, int):
            return
        there = {shard.path for shard in self.shards(split, teacher)}
        for number in range(min(count, samples)):
            shard = self.shard(split, teacher, number)
            if shard.path not in there:
                shard.check()
                raise damaged(shard.path, "the file is gone")


@dataclass(frozen=True)
class RoundFiles:
    """The files of one round. folder: its checkpoint. manifest: that of the run."""

    decisions: TableFile
    folder: Path
    manifest: Manifest

    @property
    def decision_sums(self) -> TableFile:
        """Return the table of sums over the decisions of a sharded run (`cosup.sharded.sums`)."""
        return self._sums("decision", schemas.DECISION_SUM_COLUMNS)

    @property
    def answer_sums(self) -> TableFile:
        """Return the table of sums over the annotations of a sharded run."""
        return self._sums("answer", schemas.ANSWER_SUM_COLUMNS)

    def _sums(self, of: str, columns: tuple[str, ...]) -> TableFile:
        path = self.decisions.path
        return TableFile(path.with_name(f"{path.stem}-{of}-sums.parquet"), self.manifest, columns)

    @property
    def student(self) -> TensorFile:
        """Return the file of the student's weights after the round."""
        return TensorFile(self.folder / "student.safetensors", self.manifest)

    @property
    def train(self) -> ProbFile:
        """Return the file of the student's probabilities of student_train."""
        return ProbFile(self.folder / "train.safetensors", self.manifest)

    @property
    def cross_fitted(self) -> ProbFile:
        """Return the file of the student's cross-fitted probabilities of student_train, for a last
        round whose `train` are not."""
        return ProbFile(self.folder / "cross-fitted.safetensors", self.manifest)

    @property
    def labelled(self) -> ProbFile:
        """Return the file of the student's cross-fitted probabilities of the labelled samples from
        which it learns."""
        return ProbFile(self.folder / "labelled.safetensors", self.manifest)

    @property
    def test(self) -> ProbFile:
        """Return the file of the student's probabilities of the test samples."""
        return ProbFile(self.folder / "test.safetensors", self.manifest)

    @property
    def assigner(self) -> TensorFile:
        """Return the file of the fitted assigner, for one that has a state."""
        return TensorFile(self.folder / "assigner.safetensors", self.manifest)


@dataclass(frozen=True)
class ShiftedFiles:
    """The files of a shifted test set. folder: its own. manifest: that of the run."""

    folder: Path
    manifest: Manifest

    @property
    def samples(self) -> TableFile:
        """Return the table of its samples."""
        return TableFile(self.folder / "samples.parquet", self.manifest, schemas.SAMPLE_COLUMNS)

    def round(self, number: int) -> ProbFile:
        """Return the file of the student's probabilities after a round (from 1)."""
        return self._probs(f"round-{number}.safetensors")

    def control(self, name: str) -> ProbFile:
        """Return the file of a control's probabilities."""
        return self._probs(f"control-{name}.safetensors")

    @property
    def student_and_team(self) -> ProbFile:
        """Return the file of the probabilities by student and team."""
        return self._probs("student-and-team.safetensors")

    def _probs(self, name: str) -> ProbFile:
        return ProbFile(self.folder / name, self.manifest)


@dataclass(frozen=True)
class ReviewFiles:
    """The files of the review of a run by a person."""

    folder: Path

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of the run that the folder is in."""
        return Manifest(self.folder.parent)

    @property
    def pool(self) -> TableFile:
        """Return the table of all images that may be reviewed, and what sources say of them."""
        columns = ("sample_id", "group", "reason", "label")
        return TableFile(self.folder / "pool.parquet", self.manifest, columns)

    @property
    def questions(self) -> Path:
        """Return the path of the table that a person fills in, and which is therefore no record."""
        return self.folder / "next.csv"

    @property
    def page(self) -> File:
        """Return the page that shows these images."""
        return File(self.folder / "next.html", self.manifest)

    @property
    def answers(self) -> TableFile:
        """Return the table of all answers so far."""
        columns = ("sample_id", "label", "reason")
        return TableFile(self.folder / "answers.parquet", self.manifest, columns)

    @property
    def by_hand(self) -> tuple[File, ...]:
        """Return the files that hold a person's work."""
        return self.pool, self.answers

    @property
    def estimates(self) -> JsonFile:
        """Return the file of what the answers tell of every source."""
        return JsonFile(self.folder / "estimates.json", self.manifest)
