"""Export the trained student with a model card."""

from pathlib import Path
from typing import Any

from jinja2 import Environment

from cosup.config.schema import Assigners, Config
from cosup.config.teacher_model import TeacherModelSection, TeacherSetup
from cosup.layout import PREPARED
from cosup.models.classifier import build_classifier
from cosup.models.clip import describe_encoder, save_encoder
from cosup.models.compute import Compute, resolve_device, resolve_precision
from cosup.models.networks import load_backbone
from cosup.models.prompts import OPEN_CLIP
from cosup.models.section import TrainingSection
from cosup.models.weights import hash_tensors
from cosup.runs.directory import RunDirectory
from cosup.student.exported import TEAM, save_network, save_student
from cosup.student.network import split_state
from cosup.student.team import SavedTeacher, save_team
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec
from cosup.words import in_percent, plural

CARD = """\
# {{ run }}: a student trained by cosup

{% if network %}The whole network `{{ backbone }}`\
{% else %}A {{ head }} head on frozen features of `{{ backbone }}`{% endif %}, taught by \
{{ plural(teachers | length, "weak teacher") }} \
({{ teachers | join(", ") }}). It was trained with{{ "" if labels else "out" }} true labels.\
{% if simulated %} Simulated from the true labels, so no measurement of anybody: \
{{ simulated | join(", ") }}.{% endif %}\
{% if clip and not network %} CLIP's image encoder is stored with it; its text encoder is not \
needed.\
{% endif %}

{% if measured %}\
| | accuracy {{ measured }} |
| --- | --- |
| this student | {{ percent(student.accuracy) }} % |
{% if floor.accuracy is not none %}\
| best teacher alone ({{ floor.teacher }})\
{% if floor.coverage < 1 %}, where it answers ({{ percent(floor.coverage) }} %){% endif %} \
| {{ percent(floor.accuracy) }} % |
{% endif %}\
{% if ceiling.accuracy is not none %}\
| the same student on true labels | {{ percent(ceiling.accuracy) }} % |
{% endif %}\
{% else %}\
Its accuracy is not known: {{ measured_reason }}. By an estimate without labels it has \
{{ percent(reliability) }} % of the images of student_train right, of which it saw no label.
{% endif %}

Load it, with the path of this folder: `cosup.load_student(path)\
{% if meta %}.embed([image])`; new classes by the nearest centroid; base classes below.
{% else %}.predict([image])`; the columns are the classes below.
{% endif %}
Classes: {{ classes | join(", ") }}

{% if team.reason %}There is no team to predict with: {{ team.reason }}.
{% else %}`predict([image], team=True)` also asks {{ team.teachers | join(", ") }}, routed as in \
the run.\
{% if team.left_out %} It cannot ask {{ team.left_out | join(", ") }}: annotation tables do not \
answer new images.\
{% endif %}
{% if team.uses == "both" %}It returns the product of the student's probabilities to the power \
{{ "%.2f" | format(team.student_exponent) }} and the team's to the power \
{{ "%.2f" | format(team.team_exponent) }}, fitted to {{ team.samples }} samples of \
{{ team.fitted_on }}.\
{% else %}It answers as the {{ team.uses }} does: on {{ team.samples }} samples of \
{{ team.fitted_on }} the two together were not better.\
{% endif %}{% if paired is not none %} Accuracy {{ measured }}: {{ percent(paired) }} %.{% endif %}
{% endif %}
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
        measured_reason=summary["measured_reason"],
        reliability=summary["sources"]["student"]["reliability"],
        teachers=summary["rounds"][-1]["teachers"],
        simulated=[t["name"] for t in summary["teachers"] if t["simulated"]],
        student=summary["student"],
        floor=summary["floor"],
        ceiling=summary["ceiling"],
        classes=classes,
        percent=in_percent,
        plural=plural,
        team=summary["team"],
        paired=summary["controls"].get("student_and_team", {}).get("accuracy"),
    )
    no_team = summary["team"]["reason"]
    if no_team is None:
        export_team(config, run, summary, folder / TEAM)
    if network:
        plain, through_meta = split_state(state)
        save_network(folder, through_meta or plain, section, classes, text, meta, no_team)
        if clip:
            spec = build_classifier(section.name, 1, None, section.image_size).input
            describe_encoder(folder, section, spec)
        return
    device = resolve_device(config.execution.device)
    compute = Compute(device, resolve_precision(config.execution.precision, device))
    backbone = load_backbone(section, compute)
    weights = hash_tensors(backbone.model.state_dict())
    save_student(folder, state, section, weights, classes, text, no_team)
    if clip:
        assert backbone.logit_scale is not None
        tower = backbone.model.state_dict()
        save_encoder(folder, section, backbone.input, tower, backbone.logit_scale)


def export_team(config: Config, run: RunDirectory, summary: dict[str, Any], folder: Path) -> None:
    """Write the teachers of the last round, its assigner and the exponents; copy the weights."""
    team, last, files = summary["team"], summary["rounds"][-1], run.files
    device = resolve_device(config.execution.device)
    compute = Compute(device, resolve_precision(config.execution.precision, device))
    cache, teachers = FeatureCache(compute), []
    for name in last["teachers"]:
        about = files.teachers.record(name).read()
        classes, domains = (
            None if part is None else tuple(part) for part in (about["classes"], about["domains"])
        )
        setup = TeacherSetup(
            TeacherModelSection.model_validate(about["model"]),
            TrainingSection.model_validate(about["training"]),
        )
        spec = TeacherSpec(name, about["level"], classes, domains, setup=setup)
        answers, weights = name in team["teachers"], files.teachers.weights(name)
        state = weights.read() if answers and weights.exists() else {}
        reads = setup.model.features if answers else None
        backbone = None if reads is None else cache.source(reads).backbone
        teachers.append(SavedTeacher(spec, state, about["steps"], answers, backbone))
    prepared = run.load(PREPARED)
    exponents = {key: team[key] for key in ("uses", "student_exponent", "team_exponent")}
    assigner = files.round(last["round"]).assigner
    features = Assigners.settings(config.rounds.assignment).uses & {"features", "provenance"}
    network, own = config.student.mode == "finetune", config.student.backbone
    save_team(
        folder,
        teachers,
        (config.rounds.assignment.model_dump(), assigner.read() if assigner.exists() else {}),
        {
            "classes": prepared["classes"],
            "domains": prepared["domains"],
            "seed": config.run.seed,
            **exponents,
            "fitted_on": team["fitted_on"],
            "samples": team["samples"],
        },
        (own, load_backbone(own, compute)) if network and features else None,
    )
