"""Export the trained student with a model card."""

from pathlib import Path
from typing import Any

from cosup.config.schema import Assigners, Config
from cosup.layout import PREPARED
from cosup.manifest import Manifest
from cosup.models.backbone import load_backbone
from cosup.models.classifier import build_classifier
from cosup.models.heads import head_bank
from cosup.runs.card import card
from cosup.runs.directory import RunDirectory
from cosup.runs.prepare import make_compute
from cosup.student.folder import CARD, TEAM, save_head, save_network
from cosup.student.network import split_state
from cosup.student.team_folder import SavedTeacher, save_team
from cosup.teachers.features import FeatureCache
from cosup.teachers.train import recorded_spec


def export_student(
    config: Config, classes: tuple[str, ...], run: RunDirectory, summary: dict[str, Any]
) -> None:
    """Write the student of the last round: its weights, its team and its model card."""
    state = run.files.round(summary["rounds"][-1]["round"]).student.read()
    folder, no_team = run.folder(run.files.student), summary["team"]["reason"]
    if no_team is None:
        export_team(config, run, summary, folder / TEAM)
    section = config.student.backbone
    if config.student.mode == "finetune":
        network = build_classifier(section.name, len(classes), None, section.image_size)
        plain, through_meta = split_state(state)
        network.model.load_state_dict(through_meta or plain)
        meta = config.student.meta is not None
        no_timm = save_network(folder, network, section, classes, meta, no_team)
    else:
        backbone = load_backbone(section)
        no_timm = save_head(folder, head_bank(state), backbone, section, classes, no_team)
    about = card(config, classes, summary, folder, no_timm)
    manifest = Manifest(folder)
    manifest.write(folder / CARD, about.encode())
    manifest.close()
    run.record(folder)


def export_team(config: Config, run: RunDirectory, summary: dict[str, Any], folder: Path) -> None:
    """Write the teachers of the last round, its assigner and the exponents; copy the weights."""
    team, last, files = summary["team"], summary["rounds"][-1], run.files
    compute = make_compute(config.run, config.execution)
    cache, teachers = FeatureCache(compute), []
    for name in last["teachers"]:
        about = files.teachers.record(name).read()
        spec = recorded_spec(about)
        answers, weights = name in team["teachers"], files.teachers.weights(name)
        state = weights.read() if answers and weights.exists() else {}
        reads = spec.model.features if answers else None
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
