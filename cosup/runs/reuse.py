"""What runs that differ in their loss alone have in common: made once, and taken over."""

import os
import shutil
from pathlib import Path

from cosup.controls import CONTROLS
from cosup.files import TEMPORARY, disk_errors, write_atomic
from cosup.layout import PENDING, Layout
from cosup.runs.directory import RunDirectory

STAGES = ("teachers", "annotate", "features")
SHARED = tuple(control.name for control in CONTROLS.values() if not control.uses_run_loss)
"""Controls whose student learns by plain cross-entropy, whatever the run's loss, or not at all."""


def take_over(source: Path, run: RunDirectory) -> None:
    """Give a run what a finished one of the same seed and another loss made: teachers,
    annotations, the controls that no loss changes, and the records of these stages.

    Files are hard links where the file system has them, which is safe as no file of a run is ever
    written in place, and copies elsewhere. What is there already stays. The records bring their
    seconds along, so each run's summary says what that run takes by itself.
    """
    files = Layout(source)
    for folder in (files.teachers.folder, files.annotations.folder):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.endswith((TEMPORARY, PENDING)):
                _link(path, run.path / path.relative_to(source))
    # A record comes after its files: where it stands, they do.
    for name in SHARED:
        if files.control(name).exists():
            _link(files.control(name).path, run.files.control(name).path)
    for stage in (*STAGES, *(f"control-{name}" for name in SHARED)):
        if files.stage(stage).exists():
            _link(files.stage(stage).path, run.files.stage(stage).path)


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # no hard links here
            write_atomic(target, lambda temporary: shutil.copyfile(source, temporary))
