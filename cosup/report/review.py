"""The page that shows a person the images to review, with a field for each answer."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from cosup.cells import FORMULA, NUMBER
from cosup.layout.kinds import File
from cosup.report.render import render

__all__ = ["Question", "picture_of", "write_review"]

LARGEST = 320
"""Pixels of the longer side of a picture; smaller images are not enlarged."""


@dataclass(frozen=True)
class Question:
    """An image to review. path: its file, or the name of its place. picture: a data URL, or ""."""

    sample_id: str
    path: str
    suggested: str
    reason: str
    label: str = ""
    picture: str = ""


def picture_of(image: Image.Image) -> str:
    """Return a picture as a data URL, at most 320 pixels a side."""
    image = image.copy()
    image.thumbnail((LARGEST, LARGEST))
    content = io.BytesIO()
    image.save(content, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def write_review(
    file: File, name: str, questions: Iterable[Question], classes: Sequence[str]
) -> None:
    """Write the page of a run's questions; its button saves the answers as a CSV."""
    page = render(
        "review.html.j2",
        name=name,
        questions=list(questions),
        classes=list(classes),
        formula=FORMULA,
        number=NUMBER,
    )
    file.put(page.encode("utf-8"))
