"""Annotations in JSON: Label Studio's export, and lists of images and annotations as COCO's.

Label Studio (https://labelstud.io/guide/export.html, "JSON"): a list of tasks, each with `data` and
`annotations`; an annotation has `completed_by` (a number, or a user with `email`), `was_cancelled`
(skipped: no answer) and `result`, where choices have `value: {choices: [...]}`. Its JSON-MIN export
is a flat list, which is read as a table.

COCO (https://cocodataset.org/#format-data) for classification, as camera traps use it: `images`
with `file_name`, `categories`, and an annotation per image with `category_id`; whoever annotated
may stand in `annotator`, and the probability in `confidence` or `score`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pandas as pd

from cosup.cells import single_values
from cosup.config.external import ColumnsSection, Form
from cosup.data.column_names import USUAL
from cosup.errors import known_names
from cosup.teachers.tables.frames import table_error
from cosup.teachers.tables.votes import ALONE, VoteCollector, Votes

__all__ = ["nested_form", "read_nested"]

PARTS = ("images", "annotations", "categories")
TASK = ("annotations", "completions")
"""Keys of a task's annotations; versions of Label Studio before 1.0 have the second."""
UPLOADED = re.compile(r"^.*/(?:[0-9a-f]{8}-)?(?=[^/]+$)")
"""Label Studio stores an uploaded file in a folder of its own, with eight characters before its
name."""
KNOWN = (
    "a list of flat objects, Label Studio's list of tasks, or COCO's `images`, `annotations` and "
    "`categories`"
)


@dataclass(frozen=True)
class _Answer:
    """One answer; label: None if there is none."""

    sample: str
    annotator: str
    label: str | None
    confidence: float | None = None


def nested_form(path: Path, content: Any) -> Form | None:
    """Return the form of a JSON file; None for a flat list, which is a table.

    Raises `UserError` for a file of another form.
    """
    if isinstance(content, dict):
        if all(isinstance(content.get(part), list) for part in PARTS):
            return "coco"
        content = [content]
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise table_error(path, "is JSON of an unknown form", KNOWN)
    if not content:
        raise table_error(path, "has no rows")
    if any(isinstance(item.get(key), list) for item in content[:100] for key in TASK):
        return "label_studio"
    if any(isinstance(value, dict) for value in content[0].values()) and "data" in content[0]:
        raise table_error(path, "has tasks of Label Studio without `annotations`", KNOWN)
    nested = [key for key, value in content[0].items() if isinstance(value, list | dict)]
    if nested and "annotation_id" not in content[0]:
        raise table_error(path, f"is JSON of an unknown form: '{nested[0]}' is nested", KNOWN)
    return None


def read_nested(path: Path, content: Any, form: Form, columns: ColumnsSection) -> Votes:
    """Read the answers of a JSON file of the form `label_studio` or `coco`. Raises `UserError`."""
    read = _coco_answers if form == "coco" else _label_studio_answers
    answers = list(read(path, content, columns))
    if not answers:
        raise table_error(path, "has no annotations")
    alone = all(answer.annotator == ALONE for answer in answers)
    found = VoteCollector(path, form, [ALONE] if alone else [])
    frame = single_values(pd.DataFrame(answers))
    sample = found.start(frame["sample"])
    who = np.zeros(len(frame), dtype=np.int32) if alone else found.annotators(frame["annotator"])
    given = frame["confidence"].notna().any()
    found.add(sample, who, frame["label"], frame["confidence"] if given else None)
    found.end(len(frame))
    return found.finish()


def _label_studio_answers(path: Path, content: Any, columns: ColumnsSection) -> Iterator[_Answer]:
    tasks = content if isinstance(content, list) else [content]
    for number, task in enumerate(tasks, 1):
        sample = _task_sample(path, number, task, columns.sample_id)
        made: list[Any] = next((task[key] for key in TASK if isinstance(task.get(key), list)), [])
        for annotation in _objects(path, f"`annotations` of task {number}", made):
            who = _user(annotation.get("completed_by"))
            skipped = annotation.get("was_cancelled") or annotation.get("skipped")
            found = [] if skipped else annotation.get("result") or []
            results = _objects(path, f"`result` of task {number}", found)
            label = _choice(path, number, sample, results, columns.label)
            yield _Answer(sample, who, label)


def _task_sample(path: Path, number: int, task: Mapping[str, Any], key: str | None) -> str:
    data = task.get("data")
    if not isinstance(data, dict):
        raise table_error(path, f"task {number} has no `data`")
    if key is not None:
        if key not in data:
            found = f"the data of task {number} has no '{key}' (found: {known_names(data)})"
            raise table_error(path, found)
        return _without_server(str(data[key]))
    usual = [str(data[name]) for name in USUAL["sample_id"] if name in data]
    texts = [value for value in data.values() if isinstance(value, str)]
    if not usual and len(texts) != 1:
        found = f"the data of task {number} has none of {', '.join(USUAL['sample_id'])}"
        raise table_error(path, found, f"`columns.sample_id`, one of {known_names(data)}")
    return _without_server((usual or texts)[0])


def _without_server(text: str) -> str:
    """Return the path that Label Studio's address of an image is about, as it was imported."""
    try:
        parts = urlsplit(text)
    except ValueError:  # no address, such as `http://[`
        return text
    if parts.path.endswith("/data/local-files/") or parts.path == "/data/local-files":
        return parse_qs(parts.query).get("d", [text])[0]
    served = parts.scheme in ("http", "https")
    found = unquote(parts.path).lstrip("/") if served else unquote(text)
    if f"/{found.lstrip('/')}".startswith(("/data/upload/", "/upload/")):
        return UPLOADED.sub("", found)
    return found


def _user(completed_by: Any) -> str:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return ALONE if completed_by is None else str(completed_by)


def _choice(
    path: Path, number: int, sample: str, results: Sequence[Any], name: str | None
) -> str | None:
    """Return the class that an annotation chooses; None if it chooses none."""
    where = f"task {number}, sample '{sample}'"
    made: dict[str, list[str]] = {}
    for result in results:
        value = result.get("value")
        choices = value.get("choices") if isinstance(value, dict) else None
        if isinstance(choices, list):
            made.setdefault(str(result.get("from_name")), []).extend(map(str, choices))
    if name is not None:
        made = {key: value for key, value in made.items() if key == name}
    if len(made) > 1:
        found = f"{where} has several choices: {known_names(made)}"
        raise table_error(path, found, "`columns.label` with the name of one")
    chosen = next(iter(made.values()), [])
    if len(chosen) > 1:
        found = f"{where} has {len(chosen)} classes: {', '.join(chosen)}"
        raise table_error(path, found, "one class per sample")
    return chosen[0] if chosen else None


def _objects(path: Path, what: str, value: Any) -> list[dict[str, Any]]:
    """Return a list of objects. Raises `UserError` for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise table_error(path, f"{what} is no list of objects", KNOWN)
    return value


def _id(value: Any) -> Any:
    """Return an id, which is a number or text; anything else as text, which no other id is."""
    return str(value) if isinstance(value, list | dict) else value


def _coco_answers(path: Path, content: Any, columns: ColumnsSection) -> Iterator[_Answer]:
    images, annotations, categories = (_objects(path, f"`{part}`", content[part]) for part in PARTS)
    names = {_id(item.get("id")): str(item.get("name")) for item in categories}
    key = columns.sample_id or "file_name"
    samples = {_id(item.get("id")): item.get(key) for item in images}
    who_keys = (columns.annotator,) if columns.annotator else USUAL["annotator"]
    sure_keys = (columns.confidence,) if columns.confidence else ("confidence", "score")
    seen = set()
    for number, item in enumerate(annotations, 1):
        sample = samples.get(_id(item.get("image_id")))
        if sample is None:
            found = (
                f"annotation {number} is of image {item.get('image_id')!r}, which has no '{key}'"
            )
            raise table_error(path, found)
        category = _id(item.get("category_id"))
        if category not in names:
            found = f"annotation {number} has the category {item.get('category_id')!r}"
            raise table_error(path, found, f"{', '.join(map(str, names))}")
        seen.add(_id(item["image_id"]))
        who = next((str(item[k]) for k in who_keys if item.get(k) is not None), ALONE)
        sure = next((item[k] for k in sure_keys if item.get(k) is not None), None)
        yield _Answer(str(sample), who, names[category], sure)
    # An image without an annotation was asked and not answered, if only one annotates.
    several = any(item.get(k) is not None for item in annotations for k in who_keys)
    if not several:
        for image, sample in samples.items():
            if image not in seen and sample is not None:
                yield _Answer(str(sample), ALONE, None)
