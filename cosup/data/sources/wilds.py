"""iWildCam, FMoW and Camelyon17 as the WILDS package stores them (Koh et al., arXiv 2012.07421).

The splits are those of its `official` scheme: `train`, `id_val` and `id_test` are of one
distribution, `val` and `test` of others (other camera traps, later years, other hospitals).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cosup.data.images import FileImages
from cosup.data.sources.base import (
    Collection,
    Columns,
    Names,
    Source,
    collect,
    name_indices,
    ordered_names,
)
from cosup.data.sources.table import read_table
from cosup.errors import UserError, unknown_name, within

if TYPE_CHECKING:  # see `Source`
    import pandas as pd

Part = Literal["train", "id_val", "id_test", "val", "test"]
IN_DISTRIBUTION = {"train": "train", "id_val": "validation", "id_test": "test"}
"""The splits of one distribution, and what they are in cosup."""
CAMELYON17 = {"train": "train", "id_val": "test"}
"""Those of Camelyon17, which has no `id_test`."""
CAMELYON17_SPLITS = {"0": "train", "1": "id_val"}
VAL_CENTER, TEST_CENTER = "1", "2"
"""The hospitals of Camelyon17 that are `val` and `test`, whatever the column `split` says."""
FMOW_VAL, FMOW_TEST = "2013-01-01", "2016-01-01"
"""The days from which images of FMoW are of the later years, in `val` and in `test`."""


@dataclass
class Wilds(Source):
    """A dataset of WILDS: `root/metadata.csv` (FMoW: `rgb_metadata.csv`) and the images.

    Without `part` the samples are those of one distribution: `train` for teachers and student,
    `id_val` as validation and `id_test` as test (Camelyon17, which has no `id_test`: `id_val` as
    test). The others are shifted test sets, named with `part` in `data.shifted`. Domains are the
    camera traps, regions or hospitals, groups the sequences of a camera and the slides.
    """

    root: str
    """The folder of the dataset, such as `data/iwildcam_v2.0`."""
    dataset: Literal["iwildcam", "fmow", "camelyon17"]
    """Which of them it is."""
    part: Part | None = None
    """List the samples of this split alone, by the name that WILDS has for it."""

    def peek(self) -> Names:
        """Check that the table of samples exists."""
        self._file(_LAYOUTS[self.dataset].table)
        return Names(("normal", "tumor") if self.dataset == "camelyon17" else None)

    def load(self) -> Collection:
        """List the samples in the order of the table."""
        layout = _LAYOUTS[self.dataset]
        rows = layout.rows(self)
        parts = np.asarray(rows.parts, dtype=object)
        kept = np.isin(parts, [self.part] if self.part else list(layout.splits))
        if not kept.any():
            raise unknown_name("split", str(self.part), set(rows.parts) - {""}, key="part")
        chosen = np.flatnonzero(kept).tolist()
        names = list(layout.classes) or ordered_names(set(rows.labels))
        domains = ordered_names(set(rows.domains))
        groups = None
        if rows.groups is not None:  # slides of Camelyon17 are in several splits
            groups = [f"{rows.parts[n]} {rows.groups[n]}" for n in chosen]
        paths = [rows.paths[n] for n in chosen]
        return collect(
            Columns(
                paths,
                name_indices([rows.labels[n] for n in chosen], names),
                domain=name_indices([rows.domains[n] for n in chosen], domains),
                group=groups,
                split=["" if self.part else layout.splits[rows.parts[n]] for n in chosen],
            ),
            FileImages(self.root, paths),
            names,
            domains,
        )

    def _file(self, name: str) -> Path:
        path = Path(self.root, name)
        if not path.is_file():
            raise UserError("no file {value}", key="root", value=str(path))
        return path

    def table(self, name: str, columns: tuple[str, ...]) -> "pd.DataFrame":
        """Read a table of the dataset, all values as text; raise `UserError` for one that lacks
        a column."""
        path = str(self._file(name))
        with within("root"):
            found = read_table(path)
            lacking = [column for column in columns if column not in found]
            if lacking:
                raise UserError(f"no column {', '.join(lacking)}", value=path)
        return found


@dataclass(frozen=True)
class _Rows:
    """All samples of a dataset. parts: their splits in WILDS, "" for none."""

    paths: list[str]
    labels: list[str]
    domains: list[str]
    groups: list[str] | None
    parts: list[str]


def _iwildcam(source: Wilds) -> _Rows:
    columns = ("filename", "y", "split", "location_remapped", "sequence_remapped")
    found = source.table("metadata.csv", columns)
    return _Rows(
        [f"train/{name}" for name in found["filename"]],
        found["y"].tolist(),
        [f"location {name}" for name in found["location_remapped"]],
        found["sequence_remapped"].tolist(),
        found["split"].tolist(),
    )


def _camelyon17(source: Wilds) -> _Rows:
    columns = ("patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")
    found = source.table("metadata.csv", columns)
    parts = found["split"].map(lambda code: CAMELYON17_SPLITS.get(code, ""))
    parts = parts.mask(found["center"] == VAL_CENTER, "val")
    parts = parts.mask(found["center"] == TEST_CENTER, "test")
    places = zip(*(found[name] for name in columns[:4]), strict=True)
    return _Rows(
        [
            f"patches/patient_{patient}_node_{node}/patch_patient_{patient}_node_{node}_x_{x}_y_{y}"
            ".png"
            for patient, node, x, y in places
        ],
        [("normal", "tumor")[tumor == "1"] for tumor in found["tumor"]],
        [f"hospital {name}" for name in found["center"]],
        found["slide"].tolist(),
        parts.tolist(),
    )


def _fmow(source: Wilds) -> _Rows:
    import pandas as pd

    found = source.table("rgb_metadata.csv", ("split", "category", "country_code", "timestamp"))
    countries = source.table("country_code_mapping.csv", ("alpha-3", "region"))
    regions = dict(zip(countries["alpha-3"], countries["region"], strict=True))
    times = pd.to_datetime(found["timestamp"], utc=True, format="ISO8601")
    later = times >= pd.Timestamp(FMOW_VAL, tz="UTC")
    last = times >= pd.Timestamp(FMOW_TEST, tz="UTC")
    parts = pd.Series("", index=found.index, dtype="str")
    for split, part, there in (
        ("train", "train", ~later),
        ("val", "id_val", ~later),
        ("test", "id_test", ~later),
        ("val", "val", later & ~last),
        ("test", "test", last),
    ):
        parts = parts.mask((found["split"] == split) & there, part)
    return _Rows(
        [f"images/rgb_img_{number}.png" for number in range(len(found))],
        found["category"].tolist(),
        [regions.get(code) or "Other" for code in found["country_code"]],
        None,
        parts.tolist(),
    )


@dataclass(frozen=True)
class _Layout:
    """How a dataset is stored. splits: those without `part`, and what they are in cosup. classes:
    those of the dataset; none are those of the table."""

    table: str
    rows: Callable[[Wilds], _Rows]
    splits: Mapping[str, str]
    classes: tuple[str, ...] = ()


_LAYOUTS = {
    "iwildcam": _Layout("metadata.csv", _iwildcam, IN_DISTRIBUTION),
    "fmow": _Layout("rgb_metadata.csv", _fmow, IN_DISTRIBUTION),
    "camelyon17": _Layout("metadata.csv", _camelyon17, CAMELYON17, ("normal", "tumor")),
}
