"""The exported student and its model card."""

from pathlib import Path
from typing import Any

from jinja2 import Environment
from safetensors.torch import load_file

from cosup.config.schema import Config
from cosup.models.backbones import hash_tensors, load_backbone
from cosup.models.device import resolve_device, resolve_precision
from cosup.runs.directory import RunDirectory
from cosup.student.exported import save_student

CARD = """\
# {{ run }}: a student trained by cosup

A {{ head }} head on frozen features of `{{ backbone }}` ({{ size }} x {{ size }} pixels), taught by
{{ teachers | length }} weak teachers ({{ teachers | join(", ") }}). It saw no true label.

| | accuracy on the test split |
| --- | --- |
| this student | {{ percent(student.accuracy) }} % |
| best teacher alone ({{ floor.teacher }}) | {{ percent(floor.accuracy) }} % |
| the same student on true labels | {{ percent(ceiling.accuracy) }} % |

Load it: `cosup.load_student("{{ folder }}").predict([image])`; the columns are the classes below.

Classes: {{ classes | join(", ") }}
"""


def export_student(
    config: Config, classes: tuple[str, ...], run: RunDirectory, summary: dict[str, Any]
) -> None:
    """Write `student/`: the last round's head, what it stands on, and a card with its numbers."""
    last = summary["rounds"][-1]["round"]
    head = load_file(run.path / "checkpoints" / f"round-{last}" / "student.safetensors")
    device = resolve_device(config.execution.device)
    section = config.student.backbone
    backbone = load_backbone(section, device, resolve_precision(config.execution.precision, device))
    card = Environment(autoescape=False, keep_trailing_newline=True).from_string(CARD)
    folder: Path = run.folder("student")
    text = card.render(
        run=summary["run"],
        head=config.student.head.kind,
        backbone=section.name,
        size=backbone.input.size,
        teachers=summary["rounds"][-1]["teachers"],
        student=summary["student"],
        floor=summary["floor"],
        ceiling=summary["ceiling"],
        classes=classes,
        folder=folder,
        percent=lambda value: "-" if value is None else f"{100 * value:.1f}",
    )
    weights = hash_tensors(backbone.model.state_dict())
    save_student(folder, head, section, weights, classes, text)
