"""Export the trained student with a model card."""

from typing import Any

from jinja2 import Environment

from cosup.config.schema import Config
from cosup.models.classifier import build_classifier
from cosup.models.clip import describe_encoder, save_encoder
from cosup.models.compute import Compute, resolve_device, resolve_precision
from cosup.models.networks import load_backbone
from cosup.models.prompts import OPEN_CLIP
from cosup.models.weights import hash_tensors
from cosup.runs.directory import RunDirectory
from cosup.student.exported import save_network, save_student
from cosup.student.network import split_state
from cosup.words import in_percent, plural

CARD = """\
# {{ run }}: a student trained by cosup

{% if network %}The whole network `{{ backbone }}`\
{% else %}A {{ head }} head on frozen features of `{{ backbone }}`{% endif %}, taught by \
{{ plural(teachers | length, "weak teacher") }} \
({{ teachers | join(", ") }}). It was trained with{{ "" if labels else "out" }} true labels.\
{% if clip and not network %} CLIP's image encoder is stored with it; its text encoder is not \
needed.\
{% endif %}

| | accuracy {{ measured }} |
| --- | --- |
| this student | {{ percent(student.accuracy) }} % |
| best teacher alone ({{ floor.teacher }}) | {{ percent(floor.accuracy) }} % |
| the same student on true labels | {{ percent(ceiling.accuracy) }} % |

Load it, with the path of this folder: `cosup.load_student(path)\
{% if meta %}.embed([image])`; new classes by the nearest centroid; base classes below.
{% else %}.predict([image])`; the columns are the classes below.
{% endif %}
Classes: {{ classes | join(", ") }}
"""


def export_student(
    config: Config, classes: tuple[str, ...], run: RunDirectory, summary: dict[str, Any]
) -> None:
    """Write the student of the last round, its backbone's settings and a model card."""
    last = summary["rounds"][-1]["round"]
    state = run.files.round(last).student.read()
    section, folder = config.student.backbone, run.folder(run.files.student)
    network, meta = config.student.mode == "finetune", config.student.meta is not None
    clip = section.name.startswith(OPEN_CLIP)
    card = Environment(autoescape=False, keep_trailing_newline=True).from_string(CARD)
    text = card.render(
        run=summary["run"],
        network=network,
        meta=meta,
        labels=config.rounds.true_label_weight > 0,
        head=config.student.head.kind,
        clip=clip,
        backbone=section.name,
        measured=summary["measured"],
        teachers=summary["rounds"][-1]["teachers"],
        student=summary["student"],
        floor=summary["floor"],
        ceiling=summary["ceiling"],
        classes=classes,
        percent=in_percent,
        plural=plural,
    )
    if network:
        plain, through_meta = split_state(state)
        save_network(folder, through_meta or plain, section, classes, text, meta)
        if clip:
            spec = build_classifier(section.name, 1, None, section.image_size).input
            describe_encoder(folder, section, spec)
        return
    device = resolve_device(config.execution.device)
    compute = Compute(device, resolve_precision(config.execution.precision, device))
    backbone = load_backbone(section, compute)
    weights = hash_tensors(backbone.model.state_dict())
    save_student(folder, state, section, weights, classes, text)
    if clip:
        assert backbone.logit_scale is not None
        tower = backbone.model.state_dict()
        save_encoder(folder, section, backbone.input, tower, backbone.logit_scale)
