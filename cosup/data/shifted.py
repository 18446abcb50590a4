"""The setting `data.shifted`: test sets of other distributions than the test split's.

Imports neither torch nor pandas, so that a config can be checked quickly.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cosup.data.sources import SOURCES
from cosup.errors import UserError
from cosup.sections import Choice, Section

__all__ = ["ShiftedSection", "shifted_split"]


def shifted_split(name: str) -> str:
    """Return what a shifted set is called where splits are named."""
    return f"shifted-{name}"


class ShiftedSection(Section):
    """A test set of another distribution: of a source of its own, or of the test split, corrupted.

    Only samples whose label is known, and is one of the run's classes, are used.
    """

    source: Annotated[Choice, SOURCES] | None = None
    """Where its samples are, such as `{name: image_folder, root: data/night}`; null is the test
    split, to be corrupted. Classes are matched by name."""
    split: str | None = Field(default=None, max_length=1000)
    """With `source`, only the samples that it puts into this split, as the source names it; null
    takes all."""
    limit: int | None = Field(default=None, gt=0)
    """Use at most this many samples, drawn by seed and stratified (for a quick try)."""
    corruption: Literal["blur", "noise", "contrast", "jpeg"] | None = None
    """Corrupt every image: Gaussian blur, Gaussian noise, less contrast, or strong compression.
    What is drawn depends on the sample's id alone."""
    strength: int = Field(default=3, ge=1, le=5)
    """How much, with the five strengths of ImageNet-C."""

    @model_validator(mode="after")
    def _is_shifted(self) -> "ShiftedSection":
        if self.source is None and self.corruption is None:
            raise UserError("needs a source, or a corruption of the test split", key="source")
        if self.source is None and self.split is not None:
            problem = "needs a source; without one it is the test split"
            raise UserError(problem, key="split", value=self.split)
        return self
