"""Check every file of a run before it is resumed, and remove what must be computed again.

A file that is damaged or gone is removed together with the record of the stage that made it. The
run then goes on as if that stage had been interrupted, and computes the same file again from what
is left. What a person made cannot be computed again, and is never removed.
"""

import shlex
import shutil
from collections.abc import Mapping

from cosup.errors import RunError
from cosup.layout import MARKER, Layout
from cosup.layout.folders import PENDING
from cosup.layout.makers import AT_START, LAST, TEACHER, maker_of
from cosup.manifest import MANIFEST, Damaged, Manifest, State
from cosup.words import plural

__all__ = ["repair", "states_of"]

SAID = {
    State.DAMAGED: "is damaged",
    State.MISSING: "is gone",
    State.UNRECORDED: f"is not in {MANIFEST}",
}


def states_of(files: Layout) -> dict[str, State]:
    """Return the state of each file of a run by its path in the run, sorted.

    Those of the exported student are reported by its own manifest. Left out are files that no run
    makes, the states of unfinished trainings, which are checked when they are read, and runs below.
    """
    found = files.manifest.states()
    if MARKER not in found:
        is_there = files.marker.exists()
        found[MARKER] = State.UNRECORDED if is_there else State.MISSING
    student = Manifest(files.student)
    if student.exists():
        inner = student.states()
        found |= {files.manifest.name(files.student / name): inner[name] for name in inner}
    by_hand = {files.manifest.name(file.path) for file in files.review.by_hand}
    return {
        name: state
        for name, state in sorted(found.items())
        if state is not State.UNRECORDED or maker_of(name) is not None or name in by_hand
    }


def repair(files: Layout) -> list[str]:
    """Remove what is damaged, and the records of the stages that made it; return a line for each.

    Only for the process that holds the lock of the run. Raises `RunError`, which says what to do,
    for a file that cannot be computed again.
    """
    files.manifest.close()
    return _Repair(files).done()


class _Repair:
    """The repair of one run. makers: the stages to be run again. notes: what was found."""

    def __init__(self, files: Layout) -> None:
        self.files, self.manifest = files, files.manifest
        self.is_recorded = files.manifest.exists()
        self.makers: set[str] = set()
        self.notes: list[str] = []

    def done(self) -> list[str]:
        """Repair the run and return the notes."""
        found = states_of(self.files)
        wrong = {name: state for name, state in found.items() if state is not State.WHOLE}
        self._check_by_hand(wrong)
        self._check_manifest()
        self._keep_scalars()
        for name, state in wrong.items():
            self._take(name, state)
        again = self.makers - {AT_START}
        for maker in again and sorted({*again, LAST}):
            self._repeat(maker)
        if again:
            self.files.summary.remove()
        return self.notes

    def _check_by_hand(self, wrong: Mapping[str, State]) -> None:
        """Raise `RunError` for what a person made, unless its folder was moved away."""
        review = self.files.review
        for file in review.by_hand:
            name = self.manifest.name(file.path)
            if name in wrong and review.folder.exists():
                again = f"cosup review {shlex.quote(str(self.files.path))} --read FILE"
                raise RunError(
                    f"{file.path} {SAID[wrong[name]]}, and cannot be computed again: restore it "
                    f"from a copy, or move {review.folder} away to go on without it (after a new "
                    f"cosup review --next, {again} takes answers from a table)"
                )

    def _check_manifest(self) -> None:
        """Note that the manifest is gone or damaged, and write one without what is damaged."""
        unreadable = self.manifest.unreadable()
        if not self.is_recorded:
            self.notes.append(
                f"{MANIFEST} is gone: nothing tells which files are whole, all are made again"
            )
        elif unreadable:
            what = plural(unreadable, "line")
            self.notes.append(f"{MANIFEST} is damaged: {what} left out, and their files made again")
        if unreadable or not self.is_recorded:
            self.manifest.rewrite()

    def _keep_scalars(self) -> None:
        """Keep the scalars that are whole; those that are lost are recorded again."""
        lost = self.files.metrics.salvage()
        if lost is None:
            return
        name = self.files.metrics.path.name
        self.notes.append(
            f"{name} is damaged: running again what recorded the numbers that it lost"
        )
        self.makers |= lost - {""}
        if "" in lost:  # of what is not finished
            shutil.rmtree(self.files.training, ignore_errors=True)
            for state in self.files.teachers.folder.glob(f"*{PENDING}"):
                state.unlink()
            if not self.files.stage("teachers").exists():
                self.makers |= {TEACHER + file.path.stem for file in self.files.teachers.records()}
            self.makers.add(LAST)

    def _take(self, name: str, state: State) -> None:
        """Remove a file that is not whole, and note which stage made it."""
        files, maker = self.files, maker_of(name)
        path = files.path / name
        if path == files.metrics.path:
            return
        if path.is_relative_to(files.review.folder) and not files.review.folder.exists():
            self.manifest.forget(path)
            return
        if maker is None:
            self._note(name, state, "kept as it is, as nothing is read from it")
            self.manifest.forget(path)
            return
        if self.is_recorded and (state is not State.UNRECORDED or self._is_done(maker)):
            self._note(name, state, "making it again")
        self.makers.add(maker)
        self._remove(name)

    def _note(self, name: str, state: State, what: str) -> None:
        self.notes.append(f"{name} {SAID[state]}: {what}")

    def _remove(self, name: str) -> None:
        """Remove a file; of the exported student, all files. Raises `Damaged` for one elsewhere."""
        files, path = self.files, self.files.path / name
        if not path.parent.resolve().is_relative_to(files.path.resolve()):
            raise Damaged(path, "it is reached through a link that leads out of the run")
        if path.is_relative_to(files.student):
            for recorded in self.manifest.entries():
                if (files.path / recorded).is_relative_to(files.student):
                    self.manifest.forget(files.path / recorded)
            shutil.rmtree(files.student, ignore_errors=True)
            return
        files.file(path).remove()

    def _is_done(self, maker: str) -> bool:
        if maker.startswith(TEACHER):
            return self.files.teachers.record(maker.removeprefix(TEACHER)).exists()
        return maker == AT_START or self.files.stage(maker).exists()

    def _repeat(self, maker: str) -> None:
        """Remove the record of a stage, or what is stored of a teacher."""
        if not maker.startswith(TEACHER):
            self.files.stage(maker).remove()
            return
        name = maker.removeprefix(TEACHER)
        self.files.teachers.record(name).remove()
        self.files.teachers.weights(name).remove()
