"""The losses of a run: those that it chooses from, those of an ablation, and what these share.

`adaptive_confidence` with the weight `best_constant` (METHODS.md section 2, the ablation of the
adaptive weight) stands for one loss per constant. A run takes the one that does best on its
validation split (`cosup.runs.choose_loss`).
"""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.config.rounds import RoundsSection
from cosup.config.schema import Config, Losses
from cosup.controls import CONTROLS
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.files import TEMPORARY, disk_errors, write_atomic
from cosup.layout import PREPARED, Layout
from cosup.layout.folders import PENDING
from cosup.runs.directory import RunDirectory
from cosup.sections import Choice
from cosup.settings.losses import LossSettings
from cosup.validation import setting_names

LONGEST = 60
"""Maximum number of characters of a loss's name that come from its settings."""


@dataclass(frozen=True)
class Candidate:
    """One of the losses to choose from: the value of the setting, and the loss with it."""

    value: float
    loss: Choice


def candidates(choice: Choice) -> list[Candidate]:
    """Return the losses that a run chooses from, in the order written; empty if it has one loss."""
    found = Losses.settings(choice).candidates()
    return [Candidate(value, _choice(choice.name, loss)) for value, loss in found]


def check_candidates(rounds: RoundsSection, data: ImageData) -> None:
    """Raise `UserError` if a loss is to be chosen and there is no validation split for it."""
    for choice in rounds.losses or [rounds.loss]:
        if candidates(choice) and not _has_validation(data):
            raise UserError(
                f"{choice.name}, weight 'best_constant': the constant is chosen on the validation "
                "split, and the data have none; add one (such as data.splits.validation=0.1), or "
                "set weight to 'constant' and give a constant",
                key="rounds.loss" if rounds.losses is None else "rounds.losses",
            )


def with_loss(config: Config, loss: Choice) -> Config:
    """Return the config with this loss alone."""
    rounds = config.rounds.model_copy(update={"loss": loss, "losses": None})
    return config.model_copy(update={"rounds": rounds})


def loss_names(losses: Sequence[Choice]) -> list[str]:
    """Return a name for each loss that can name a folder.

    It is the loss's own name, with the settings in which several entries of that name differ:
    `adaptive_confidence-half`, `distillation-tau-4.0`.
    """
    names: list[str] = []
    for choice in losses:
        others = [other.settings for other in losses if other.name == choice.name]
        suffix = "".join(
            f"-{_setting_text(key, value)}"
            for key, value in choice.settings.items()
            if any(other[key] != value for other in others)
        )
        name = _folder_text(choice.name) + (suffix if len(suffix) <= LONGEST else "")
        count = 1
        while (numbered := name if count == 1 else f"{name}-{count}") in names:
            count += 1
        names.append(numbered)
    return names


def _has_validation(data: ImageData) -> bool:
    """Return whether there are validation samples, or validation classes for episodes."""
    if data.novel is not None:
        return data.novel_validation is not None
    return len(data.rows("validation")) > 0


def _choice(name: str, loss: LossSettings) -> Choice:
    settings = {key: getattr(loss, key) for key in setting_names(type(loss))}
    return Losses.check({"name": name, **settings})


def _setting_text(key: str, value: Any) -> str:
    """Return the value of a setting, with its key unless the value is a word."""
    return _folder_text(value if isinstance(value, str) else f"{key}-{value}")


def _folder_text(text: str) -> str:
    """Replace the characters that the name of a folder cannot have."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")


STAGES = ("teachers", "annotate", "features")
SHARED = tuple(control.name for control in CONTROLS.values() if control.loss_free)
"""Controls that do not depend on the run's loss."""


def take_over(source: Path, run: RunDirectory) -> None:
    """Give a run what a finished run of the same seed and other `rounds` has in common with it.

    These are the teachers, the annotations, the controls that no round changes, and the records of
    those stages with their seconds. Existing files stay. Files are hard links if the file system
    has them, which is safe as no file of a run is changed in place, and copies otherwise.
    """
    files = Layout(source)

    def link(path: Path) -> None:
        target = run.path / path.relative_to(source)
        if not target.exists():
            files.file(path).check()
            _link(path, target)
            run.record(target)

    for folder in (files.teachers.folder, files.annotations.folder):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.endswith((TEMPORARY, PENDING)):
                link(path)
    # A record is written after its files: if it exists, they do.
    sets = files.stage(PREPARED).read().get("shifted", {})
    for name in SHARED:
        for file in (files.control(name), *(files.shifted(one).control(name) for one in sets)):
            if file.exists():
                link(file.path)
    for stage in (*STAGES, *(f"control-{name}" for name in SHARED)):
        if files.stage(stage).exists():
            link(files.stage(stage).path)


def _link(source: Path, target: Path) -> None:
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # no hard links here
            write_atomic(target, lambda temporary: shutil.copyfile(source, temporary))
