"""Draw the assignment of a round as a picture for TensorBoard: teachers by domains or classes."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from cosup.analysis.decisions import HARD

MOST = 40
"""Maximum number of teachers, and of domains or classes, in a picture."""
ROWS = "assigned_teacher"
COLUMNS = [ROWS, "assignment_weight", "domain", "true_label", "annotation"]
"""Columns of a decisions table that the picture needs."""
WORDS = {"domain": "domain", "true_label": "true class", "annotation": "annotated class"}

CELL = (46, 33)
MARGIN = 12
FONT_SIZE = 12
LONGEST_NAME = 28
"""Maximum number of characters of a name."""
BLUE = np.array([8, 48, 107])


@dataclass(frozen=True)
class Picture:
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


def routes_picture(decisions: pd.DataFrame, title: str) -> Picture:
    """Draw which teacher the samples of a round were assigned to, from its decisions table, or that
    of sums over the decisions.

    A row per teacher and a column per domain or class; of many, those with the most samples.
    """
    by, share = routes(decisions)
    teachers = _largest(share.index, decisions, ROWS)
    names = _largest(share.columns, decisions, by)
    cut = len(teachers) < len(share.index) or len(names) < len(share.columns)
    # Of a soft assignment, the teacher with the most weight is counted.
    shared = "shared" in decisions
    soft = (decisions["shared"] if shared else decisions["assignment_weight"] < HARD).any()
    sent = "with this teacher as the most weighted" if soft else "assigned to each teacher"
    more = f" (the {MOST} with the most samples)" if cut else ""
    heading = f"share of each {WORDS[by]}{more} {sent}, {title}"
    image = _draw(share.loc[teachers, names].to_numpy(float), teachers, names, heading)
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return Picture(buffer.getvalue(), *image.size)


def routes(decisions: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return the column that groups the samples, and the share [teachers, names] per teacher.

    Samples are grouped by domain if there are several, else by true class, or by annotated class if
    no true class is known. A column of the table sums to 1; it is nan for a name without samples.
    """
    by = "domain" if decisions["domain"].nunique() > 1 else "true_label"
    if not decisions[by].notna().any():
        by = "annotation"
    teachers, names = (decisions[column].astype("category").cat for column in (ROWS, by))
    known = (names.codes >= 0).to_numpy()
    samples = decisions["samples"][known] if "samples" in decisions else None
    shape = (len(teachers.categories), len(names.categories))
    cells = teachers.codes[known].astype(int) * shape[1] + names.codes[known]
    counts = np.bincount(cells, samples, shape[0] * shape[1]).reshape(shape)
    with np.errstate(invalid="ignore"):
        share = counts / counts.sum(0)
    return by, pd.DataFrame(share, teachers.categories, names.categories)


def _draw(
    share: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    teachers: Sequence[str],
    names: Sequence[str],
    heading: str,
) -> Image.Image:
    """Draw shares [teachers, names] as a grid of cells with both names and a heading."""
    font = ImageFont.load_default(FONT_SIZE)
    rows, columns = [_short(name) for name in teachers], [_short(name) for name in names]
    left = 2 * MARGIN + _longest(rows, font)
    top_of_names = _longest(columns, font)
    grid = (CELL[0] * len(columns), CELL[1] * len(rows))
    width = max(left + grid[0] + MARGIN, 420)
    lines = textwrap.wrap(heading, int(width / (0.55 * FONT_SIZE)))
    top = MARGIN + len(lines) * (FONT_SIZE + 4) + MARGIN
    image = Image.new("RGB", (width, top + grid[1] + top_of_names + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + number * (FONT_SIZE + 4)), line, "black", font)
    for row, name in enumerate(rows):
        middle = top + CELL[1] * row + CELL[1] // 2
        draw.text((left - MARGIN, middle), name, "black", font, anchor="rm")
        for column, value in enumerate(share[row]):
            corner = (left + CELL[0] * column, top + CELL[1] * row)
            _draw_cell(draw, corner, value, font if share.size <= 80 else None)
    for column, name in enumerate(columns):
        text = Image.new("L", (top_of_names + 2, FONT_SIZE + 6), 0)
        ImageDraw.Draw(text).text((0, 0), name, 255, font)
        turned = text.rotate(-90, expand=True)
        place = (
            left + CELL[0] * column + (CELL[0] - turned.width) // 2,
            top + grid[1] + MARGIN // 2,
        )
        image.paste("black", place, turned)
    return image


def _draw_cell(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    value: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont | None,
) -> None:
    """Fill a cell, the darker the larger its share; write the share if there is a font."""
    known = 0.0 if np.isnan(value) else float(value)
    red, green, blue = (255 + (BLUE - 255) * known).astype(int).tolist()
    x, y = corner
    draw.rectangle((x, y, x + CELL[0] - 2, y + CELL[1] - 2), (red, green, blue))
    if font is not None:
        middle = (x + CELL[0] // 2, y + CELL[1] // 2)
        draw.text(middle, f"{value:.2f}", "white" if known > 0.5 else "black", font, anchor="mm")


def _longest(names: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return max((int(font.getlength(name)) for name in names), default=0)


def _largest(names: pd.Index, decisions: pd.DataFrame, by: str) -> list[str]:
    """Return at most `MOST` names of a column, those with the most samples, in their own order."""
    if len(names) <= MOST:
        return list(names)
    groups = decisions.groupby(by, observed=True)
    samples = groups["samples"].sum() if "samples" in decisions else groups.size()
    most = set(samples.sort_values(ascending=False, kind="stable").index[:MOST])
    return [name for name in names if name in most]


def _short(name: object) -> str:
    text = str(name)
    return text if len(text) <= LONGEST_NAME else f"{text[:18]}…{text[-9:]}"
