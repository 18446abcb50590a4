"""Image-classification sets of the Hugging Face hub, or in a folder, read by `datasets`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from cosup.data.images import RowImages
from cosup.data.sources.base import (
    ClassName,
    Collection,
    Columns,
    Names,
    Source,
    collect,
    name_indices,
    ordered_names,
)
from cosup.data.sources.table import as_text, class_names
from cosup.data.sources.torchvision import JoinedImages
from cosup.errors import UserError, in_short, known_names, unknown_name

if TYPE_CHECKING:  # see `Source`; `datasets` has no type hints
    import pandas as pd

Part = Any
"""A `datasets.Dataset`: the rows of one split."""

SAVED = ("dataset_dict.json", "state.json")
"""Files in the folders that `save_to_disk` writes."""
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")
"""Columns that are taken for the label if none is of type ClassLabel."""


@dataclass
class HuggingFace(Source):
    """A set of the Hugging Face hub or of a folder, read by its library `datasets` (extra `hub`).

    Its splits are used as they are (`data.splits: auto`), or pooled and split anew by shares. A set
    of one split alone is split as one without any. Rows without a label (null, or -1) join
    student_train. Sample ids are `SPLIT/NUMBER`, such as `train/00042`. A set of the hub is
    downloaded once, to `HF_HOME`; with HF_DATASETS_OFFLINE=1 it is taken from there.
    """

    dataset: str
    """A name on the hub (`cifar10`, `owner/name`), or a folder: of `save_to_disk`, or of Parquet,
    Arrow or image files in the layouts that `datasets.load_dataset` knows."""
    config: str | None = None
    """The configuration of a set that has several."""
    revision: str | None = None
    """A branch, tag or commit of the hub; null is the newest."""
    parts: list[str] | None = None
    """Splits of the set to use, as it names them; null uses all."""
    image: str | None = None
    """The column of images; null is the first of type Image. A column of bytes or of paths may be
    named, too."""
    label: str | None = None
    """The column of labels; null is the first of type ClassLabel, else one of text or numbers that
    is called label, labels, class, category or target."""
    domain: str | None = None
    """A column whose values are domains; null: all samples are of one domain."""
    group: str | None = None
    """A column whose values are groups, which no split divides."""
    classes: list[ClassName] | None = None
    """Class names in their order; null uses those of the ClassLabel, or those found, sorted."""

    def peek(self) -> Names:
        """Ask the folder or the hub for the columns, without reading rows.

        A folder is only known before it is converted if it is of `save_to_disk`.
        """
        features = self._features()
        domains = ("all",) if self.domain is None else None
        if features is None:
            return Names(None if self.classes is None else tuple(self.classes), domains)
        self._image_column(features)
        names = self._class_names(features, self._label_column(features))
        for key in ("domain", "group"):
            self._check_column(key, features)
        return Names(None if names is None else tuple(names), domains)

    def load(self) -> Collection:
        """List the rows of every split, one after another."""
        parts = self._parts()
        features = next(iter(parts.values())).features
        image = self._image_column(features)
        label = self._label_column(features)
        images = [RowImages(f"{self.dataset}/{n}", self._rows(p, image)) for n, p in parts.items()]
        if not sum(map(len, images)):
            raise UserError("no row in this set", key="dataset", value=self.dataset)
        texts = ["" if text == "-1" else text for text in self._texts(parts, "label", label)]
        names = self._class_names(features, label) or ordered_names(filter(None, texts))
        if not names:
            raise UserError("must be given, because no row has a label", key="classes")
        ids = [f"{name}/{n:05d}" for name, part in parts.items() for n in range(len(part))]
        domain, domains = self._domains(parts)
        columns = Columns(
            ids,
            self._indices(texts, names),
            domain=domain,
            group=self._groups(parts, ids),
            split=None if len(parts) == 1 else [name.partition("/")[0] for name in ids],
        )
        return collect(columns, JoinedImages(images), names, domains)

    def _features(self) -> dict[str, Any] | None:
        """Return the type of each column as far as it is known without reading rows."""
        datasets = _library()
        if self._is_saved():
            features: dict[str, Any] = next(iter(self._parts().values())).features
            return features
        with self._loading():
            found = datasets.load_dataset_builder(
                self._place(), self.config, revision=self.revision
            ).info.features
        return None if found is None else dict(found)

    def _parts(self) -> dict[str, Part]:
        """Return the splits by name, of `parts` alone if that is given."""
        datasets = _library()
        with self._loading():
            if self._is_saved():
                found = datasets.load_from_disk(self._place(), keep_in_memory=False)
            else:
                found = datasets.load_dataset(
                    self._place(), self.config, revision=self.revision, keep_in_memory=False
                )
        parts = found if isinstance(found, dict) else {str(found.split or "train"): found}
        for name in self.parts or ():
            if name not in parts:
                raise unknown_name(f"split of {self.dataset}", name, parts, key="parts")
        return {name: part for name, part in parts.items() if name in (self.parts or parts)}

    def _place(self) -> str:
        """Return the folder or the name on the hub; raise `UserError` if it can be neither."""
        path = Path(self.dataset).expanduser()
        if path.is_dir():
            return str(path)
        if path.exists():
            raise UserError("a file, not a folder", key="dataset", value=self.dataset)
        if self.dataset.startswith((".", "/", "~")) or self.dataset.count("/") > 1:
            raise UserError("no folder {value}", key="dataset", value=self.dataset)
        return self.dataset

    def _is_saved(self) -> bool:
        return any((Path(self._place()) / name).is_file() for name in SAVED)

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Turn the errors of the library into a `UserError`; show no bars but on a terminal."""
        datasets = _library()
        place = self._place()
        hidden = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
        if hidden:
            datasets.disable_progress_bars()
        try:
            yield
        except Exception as error:  # datasets raises errors of many types
            of_config = self.config is not None and f"'{self.config}'" in str(error)
            raise UserError(
                f"the library datasets cannot load '{place}': {in_short(error)}",
                key="config" if of_config else "dataset",
                value=self.config if of_config else self.dataset,
            ) from None
        finally:
            if hidden:
                datasets.enable_progress_bars()

    def _image_column(self, features: dict[str, Any]) -> str:
        if self.image is not None:
            self._check_column("image", features)
            return self.image
        found = _of_type(features, "Image")
        if not found:
            raise UserError(
                f"no column of type Image in '{self.dataset}'",
                key="image",
                value=None,
                allowed=f"a column of bytes or paths among {known_names(features)}",
            )
        return found[0]

    def _label_column(self, features: dict[str, Any]) -> str | None:
        """Return the column of labels; None if there is none, and the classes are given."""
        if self.label is not None:
            self._check_column("label", features)
            return self.label
        plain = [name for name in LABEL_COLUMNS if name in _of_type(features, "Value")]
        found = [*_of_type(features, "ClassLabel"), *plain]
        if not found and self.classes is None:
            raise UserError(
                f"no column of labels found in '{self.dataset}'",
                key="label",
                value=None,
                allowed=f"one of {known_names(features)}; or data.classes, without any label",
            )
        return found[0] if found else None

    def _check_column(self, key: str, features: dict[str, Any]) -> None:
        name = getattr(self, key)
        if name is not None and name not in features:
            raise unknown_name("column", name, features, key=key)
        if name is None or key == "image" or _kind(features[name]) in ("ClassLabel", "Value"):
            return
        raise UserError(f"has no single value per image: {features[name]}", key=key, value=name)

    def _class_names(self, features: dict[str, Any], label: str | None) -> list[str] | None:
        """Return the names of the classes if they are known without reading the labels."""
        if self.classes is not None:
            return class_names(self.classes, ())
        if label is None or _kind(features[label]) != "ClassLabel":
            return None
        return list(features[label].names)

    def _rows(self, part: Part, image: str) -> Part:
        """Return the column of images alone, not decoded."""
        datasets = _library()
        if image not in part.features:
            raise unknown_name("column", image, part.features, key="image")
        rows = part.select_columns([image])
        try:
            return rows.cast_column(image, datasets.Image(decode=False))
        except Exception as error:  # pyarrow's, of many types
            raise UserError(
                f"holds no images: {in_short(error)}", key="image", value=image
            ) from None

    def _texts(self, parts: dict[str, Part], key: str, column: str | None) -> list[str]:
        """Return the value of a column in every row as text, "" for none."""
        found: list[str] = []
        for part in parts.values():
            if column is None or column not in part.features:
                found += [""] * len(part)
                continue
            feature = part.features[column]
            values = part.select_columns([column]).with_format("pandas")[:][column]
            if _kind(feature) == "ClassLabel":
                found += self._named(values, feature.names, key)
            else:
                found += as_text(values).tolist()
        return found

    def _named(self, values: pd.Series[Any], names: Sequence[str], key: str) -> list[str]:
        """Return the names of a ClassLabel's numbers, "" for null and -1."""
        codes = values.fillna(-1).to_numpy(np.int64)
        if len(codes) and not -1 <= codes.min() <= codes.max() < len(names):
            wrong = int(codes[(codes < -1) | (codes >= len(names))][0])
            problem = f"'{self.dataset}' has the number {wrong} of {len(names)} names"
            raise UserError(problem, key=key, value=values.name)
        table = np.asarray([*names, ""], dtype=object)
        return [str(name) for name in table[codes]]

    def _indices(self, texts: Sequence[str], names: Sequence[str]) -> list[int]:
        order = {"": -1} | {name: number for number, name in enumerate(names)}
        unknown = next((text for text in texts if text not in order), None)
        if unknown is not None:
            raise unknown_name(f"class in '{self.dataset}'", unknown, names, key="classes")
        return [order[text] for text in texts]

    def _domains(self, parts: dict[str, Part]) -> tuple[list[int] | None, Sequence[str]]:
        """Return the index of each row's domain, and the names."""
        if self.domain is None:
            return None, ("all",)
        for part in parts.values():
            self._check_column("domain", part.features)
        texts = self._texts(parts, "domain", self.domain)
        if "" in texts:
            raise UserError(
                f"row {texts.index('') + 1} of '{self.dataset}' has no value",
                key="domain",
                value=self.domain,
            )
        names = ordered_names(texts)
        return name_indices(texts, names), names

    def _groups(self, parts: dict[str, Part], ids: Sequence[str]) -> list[str] | None:
        """Return the group of each row; a row without one is a group of its own."""
        if self.group is None:
            return None
        for part in parts.values():
            self._check_column("group", part.features)
        texts = self._texts(parts, "group", self.group)
        return [text or f"({name})" for text, name in zip(texts, ids, strict=True)]


def _library() -> ModuleType:
    """Import `datasets`; raise `UserError` if it is not installed."""
    try:
        import datasets  # slow to import, and an extra
    except ImportError:
        raise UserError(
            "needs the library datasets, which is not installed (pip install '.[hub]')",
            key="source",
            value="huggingface",
        ) from None
    found: ModuleType = datasets
    return found


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _of_type(features: dict[str, Any], kind: str) -> list[str]:
    return [name for name, feature in features.items() if _kind(feature) == kind]
