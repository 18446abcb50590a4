"""Configs of teachers on the rotated digits, and their annotations."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from helpers.tiny_clip import write_clip

from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
from cosup.files import save_tensors
from cosup.models.classifier import build_classifier
from cosup.models.compute import Compute
from cosup.teachers.base import Teacher
from cosup.teachers.hierarchy import TeacherSpec, plan_hierarchy

TINY = "test_resnet"


def teachers_section(**changes: Any) -> TeachersSection:
    base: dict[str, Any] = {
        "hierarchy": {"by": "domain", "levels": [1, 4]},
        "model": {"name": "linear_pixels"},
        "training": {"steps": 60, "lr": 0.03},
    }
    return TeachersSection.model_validate({**base, **changes})


def finest(section: TeachersSection, data: ImageData) -> tuple[TeacherSpec, ...]:
    return plan_hierarchy(section, data.classes, data.domains, 0)[-1]


BLOCKS = {"by": "class", "levels": [2]}
SHORT = {"steps": 3, "batch_size": 16}


def label_by_brightness(images: torch.Tensor, teacher: str) -> torch.Tensor:
    """Label bright images 7 (or 9, for teachers of the high digits) and dark images 1."""
    probs = torch.zeros(len(images), 10)
    bright = images.float().mean((1, 2, 3)) > 60
    probs[bright, 9 if "5-9" in teacher else 7] = 1
    probs[~bright, 1] = 1
    return probs


NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def pretrained(folder: Path, outputs: int = 12, **changes: Any) -> dict[str, Any]:
    """Write weights of a network of other classes; return a model whose class c + 1 is digit c."""
    path = folder / f"{outputs}.safetensors"
    classifier = build_classifier(TINY, outputs, None, 32, seed=3)
    save_tensors(path, classifier.model.state_dict())
    classes = {str(digit): [digit + 1] for digit in range(10)}
    model = {"name": TINY, "use": "pretrained", "weights": str(path), "image_size": 32}
    return {**model, "classes": classes, **changes}


def section_of(kind: str, data: ImageData, folder: Path) -> TeachersSection:
    """Return a config of two teachers of this kind, each on half of the classes."""
    if kind == "linear_pixels":
        return teachers_section(hierarchy=BLOCKS)
    if kind == "linear_features":
        backbone = {"name": TINY, "weights": None, "image_size": 32}
        model = {"name": "linear_features", "backbone": backbone}
        return teachers_section(hierarchy=BLOCKS, model=model)
    if kind == "network":
        model = {"name": TINY, "image_size": 32}
        return teachers_section(hierarchy=BLOCKS, model=model, training=SHORT)
    if kind == "call":
        model = {"name": f"call:{__name__}:label_by_brightness", "image_size": 16}
        return teachers_section(hierarchy=BLOCKS, model=model)
    if kind == "pretrained":
        return teachers_section(hierarchy=BLOCKS, model=pretrained(folder))
    if kind == "zero_shot":
        if not (folder / "clip").exists():
            write_clip(folder / "clip")
        model = {"name": f"open_clip:{folder}/clip", "use": "zero_shot", "class_names": NUMBERS}
        return teachers_section(hierarchy=BLOCKS, model=model)
    if kind == "simulated":
        halves = [{"class": list(range(5))}, {"class": list(range(5, 10))}]
        annotators = [
            {"name": f"half_{n}", "scope": scope, "simulate": {"accuracy": 0.8, "seed": n}}
            for n, scope in enumerate(halves)
        ]
        return teachers_section(hierarchy=None, external=annotators)
    tables = []
    for number, own in enumerate([range(5), range(5, 10)]):
        labels = data.table["label"].clip(min(own), max(own))
        path = folder / f"half_{number}.csv"
        frame = pd.DataFrame({"sample_id": data.table["sample_id"], "label": labels})
        frame[data.table["split"] != "teacher_train"].to_csv(path, index=False)
        scope = {"class": list(own)}
        tables.append({"name": f"half_{number}", "annotations": str(path), "scope": scope})
    return teachers_section(hierarchy=None, external=tables)


def annotations(teacher: Teacher, data: ImageData, compute: Compute) -> torch.Tensor:
    """Return the teacher's annotations [N, C] of the test split."""
    inputs = teacher.inputs(data, data.rows("test"), compute)
    return torch.cat([teacher.annotate(batch) for batch in inputs])
