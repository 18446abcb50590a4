"""Configs of teachers on the rotated digits."""

from typing import Any

from cosup.config.teachers import TeachersSection
from cosup.data.table import ImageData
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
