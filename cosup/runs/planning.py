"""Find out what a run would train, annotate and cache, without running it (`cosup plan`)."""

from collections.abc import Sequence

import numpy as np

from cosup.config.rounds import RoundsSection
from cosup.config.schema import Config, ExecutionSection
from cosup.data.section import SPLITS
from cosup.data.table import ImageData
from cosup.errors import within
from cosup.models.classifier import build_classifier
from cosup.models.clip_text import prompts_of
from cosup.models.compute import Compute
from cosup.models.features import has_features
from cosup.remote import Place, listing
from cosup.runs.checks import Facts
from cosup.runs.choose import criterion_of, described, learns_labels
from cosup.runs.control_stages import left_out
from cosup.runs.control_teachers import control_teachers
from cosup.runs.costs import row_bytes
from cosup.runs.inputs import feature_splits
from cosup.runs.losses import loss_names
from cosup.runs.mirror import usable
from cosup.runs.plan import (
    AnnotationsPlan,
    ControlsPlan,
    DevicePlan,
    FeaturesPlan,
    Plan,
    PromptsPlan,
    RoundsPlan,
    RunPlan,
    SamplesPlan,
    SplitPlan,
    StudentPlan,
    TablePlan,
    TeacherPlan,
)
from cosup.runs.plan_costs import plan_costs
from cosup.runs.recipes import Candidate, candidates
from cosup.runs.sharded_choose import shard_candidates
from cosup.runs.sharded_plan import ShardsPlan, plan_shards
from cosup.runs.staging import run_place
from cosup.sharded.shards import Shards
from cosup.teachers.base import training_rows
from cosup.teachers.features import FeatureCache, cached_part
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec
from cosup.teachers.table import ANNOTATED, TableRead, table_teachers
from cosup.teachers.train import planned_steps

__all__ = ["make_plan"]


def make_plan(config: Config, facts: Facts) -> Plan:
    """Return the plan of a run. facts: those of every check (`cosup.runs.checks`), and of a sharded
    run those of `sharded_facts`."""
    data: ImageData = facts["samples"]
    hierarchy: Hierarchy = facts["hierarchy"]
    features: FeatureCache = facts["features"]
    compute: Compute = facts["compute"]
    controls = _controls(config, facts)
    planned = _features(config, data, features)
    annotations = _annotations(config, data, hierarchy)
    found, absent = _candidates(config, facts)
    sections = [one.config.rounds for one in found] or [config.rounds]
    shards = _shards(config, facts, annotations, sections)
    costs = plan_costs(config, facts, sections, planned, annotations, len(controls.names), shards)
    return Plan(
        run=_run(config),
        device=DevicePlan(
            str(compute.device), compute.precision, compute.workers, _actors(config.execution)
        ),
        samples=_samples(data, facts.get("shards")),
        student=_student(config, data, _taught(facts)),
        features=planned,
        prompts=_prompts(config, data),
        annotations=annotations,
        costs=costs,
        rounds=_rounds(config, hierarchy, data, found, absent),
        controls=controls,
        teachers=[_teacher(spec, data) for level in hierarchy for spec in level],
        tables=_tables(facts),
        notes=list(data.notes),
        shards=shards,
    )


def _taught(facts: Facts) -> int:
    """Return the number of samples of student_train."""
    shards: Shards | None = facts.get("shards")
    return len(facts["samples"].rows("student_train")) if shards is None else shards.samples


def _shards(
    config: Config,
    facts: Facts,
    annotations: AnnotationsPlan,
    sections: Sequence[RoundsSection],
) -> ShardsPlan | None:
    if "shards" not in facts:
        return None
    features: FeatureCache = facts["features"]
    with within("student.backbone"):
        per_image = features.describe(config.student.backbone).num_features
    most = max(section.total(len(facts["hierarchy"])) for section in sections)
    return plan_shards(config, facts["shards"], annotations.teachers, most, per_image)


def _actors(execution: ExecutionSection) -> dict[str, int | None] | None:
    """Return the decoding threads per process of each kind on Ray; None without Ray."""
    if execution.backend != "ray":
        return None
    cpus = {
        "teachers": execution.teachers.num_cpus,
        "features": execution.features.num_cpus,
        "student": execution.student.num_cpus,
    }
    return {name: None if n == "auto" else max(1, int(n)) for name, n in cpus.items()}


def _run(config: Config) -> RunPlan:
    where = run_place(config)
    if isinstance(where, Place):
        with usable():
            exists = bool(listing(where.uri))
    else:
        exists = where.exists()
    seeds = config.run.seeds or [config.run.seed]
    return RunPlan(str(where), exists, list(seeds), loss_names(config.rounds.losses or []))


def _samples(data: ImageData, shards: Shards | None) -> SamplesPlan:
    def split(name: str) -> SplitPlan:
        rows = data.rows(name)
        return SplitPlan(len(rows), len(rows) - len(data.labelled(rows)))

    taught = data.rows("student_train")
    splits, first = {name: split(name) for name in SPLITS}, data.sample_ids(taught[:2])
    if shards is not None:
        splits["student_train"] = SplitPlan(shards.samples, None)
        part = shards.reader.read(shards.shards[0])
        first = part.sample_ids(np.arange(min(2, len(part))))
    return SamplesPlan(
        splits=splits,
        classes=list(data.classes),
        domains=list(data.domains),
        novel_classes=[] if data.novel is None else list(data.novel.classes),
        wrong_labels=int(data.noisy(taught).sum()),
        first_ids=list(first),
    )


def _student(config: Config, data: ImageData, samples: int) -> StudentPlan:
    section = config.student
    backbone, training = section.backbone, section.training
    steps = training.total_steps(samples)
    if section.mode == "head":
        return StudentPlan("head", backbone.name, steps, training.batch_size)
    network = build_classifier(backbone.name, len(data.classes), None, backbone.image_size)
    return StudentPlan(
        section.mode,
        backbone.name,
        steps,
        training.batch_size,
        weights=sum(p.numel() for p in network.model.parameters()),
        image_size=network.input.size,
        episodes=None
        if section.meta is None
        else section.meta.steps * section.meta.episodes_per_step,
    )


def _features(config: Config, data: ImageData, features: FeatureCache) -> FeaturesPlan | None:
    splits = feature_splits(config, data)
    if not splits:
        return None
    with within("student.backbone"):
        backbone = features.describe(config.student.backbone)
    cache = features.compute.cache
    parts = {features.cache_key(backbone, data, s): len(cached_part(data, s)) for s in splits}
    images = sum(parts.values())
    missing = sum(
        count for key, count in parts.items() if cache is None or not has_features(cache, key)
    )
    return FeaturesPlan(
        backbone=backbone.name,
        per_image=backbone.num_features,
        image_size=backbone.input.size,
        nbytes=images * backbone.num_features * 2,
        cache=None if cache is None else str(cache),
        images=images,
        missing=missing,
    )


def _prompts(config: Config, data: ImageData) -> PromptsPlan | None:
    section = config.student
    if section.mode != "head" or not section.head.reads_text:
        return None
    prompts = prompts_of(section.backbone, section.head, data.classes)
    return PromptsPlan(len(prompts.names), len(prompts.templates), prompts.texts()[0])


def _annotations(config: Config, data: ImageData, hierarchy: Hierarchy) -> AnnotationsPlan:
    counts = [len(data.rows(split)) for split in ANNOTATED]
    samples = sum(counts)
    extra = control_teachers(config, hierarchy, data).values()
    teachers = sum(len(level) for level in (*hierarchy, *extra))
    classes = len(data.classes)
    shards = sum(-(-count // config.execution.shard_size) for count in counts)
    nbytes = samples * teachers * row_bytes(classes)
    return AnnotationsPlan(samples, teachers, nbytes, teachers * shards)


def _candidates(config: Config, facts: Facts) -> tuple[list[Candidate], dict[str, str]]:
    """Return the recipes that a run chooses from, and why others are left out, by name."""
    if config.rounds.choose is None:
        return [], {}
    hierarchy, data = facts["hierarchy"], facts["samples"]
    if "shards" in facts:
        return shard_candidates(config, hierarchy, data)
    return candidates(config, hierarchy, learns_labels(config, data)), {}


def _rounds(
    config: Config,
    hierarchy: Hierarchy,
    data: ImageData,
    found: Sequence[Candidate],
    left_out: dict[str, str],
) -> RoundsPlan:
    section = config.rounds
    if section.choose is not None:
        chosen = described(*criterion_of(config, data))
        return RoundsPlan(recipes=[one.name for one in found], chosen=chosen, left_out=left_out)
    return RoundsPlan(
        rounds=section.total(len(hierarchy)),
        assigner=section.assignment.name,
        filters=[choice.name for choice in section.consistency],
        loss=section.loss.name if section.losses is None else None,
        targets=section.targets,
    )


def _controls(config: Config, facts: Facts) -> ControlsPlan:
    shards: Shards | None = facts.get("shards")
    absent = left_out(config, facts["samples"], None if shards is None else shards.known)
    return ControlsPlan([name for name in config.controls if name not in absent], dict(absent))


def _teacher(spec: TeacherSpec, data: ImageData) -> TeacherPlan:
    steps = planned_steps(spec, data)
    return TeacherPlan(
        level=spec.level,
        name=spec.name,
        model=_made_of(spec),
        classes=_named(spec.classes, data.classes),
        domains=_named(spec.domains, data.domains),
        samples=len(training_rows(spec, data)) if steps else None,
        steps=steps or None,
    )


def _named(chosen: Sequence[int] | None, names: Sequence[str]) -> list[str] | None:
    return None if chosen is None else [names[index] for index in chosen]


def _made_of(spec: TeacherSpec) -> str:
    """Return a teacher's model and how it is used, or the table that it is."""
    if spec.external is not None:
        who = f": {spec.external.annotator}" if spec.external.annotator else ""
        table = spec.external.annotations
        return "simulated from the true labels" if table is None else f"{table}{who}"
    return spec.setup.text


def _tables(facts: Facts) -> list[TablePlan]:
    found: dict[str, TableRead] | None = facts.get("tables")
    if found is None:
        teachers = table_teachers(facts["hierarchy"], facts["samples"])
        found = {teacher.name: teacher.table for teacher in teachers}
    return [TablePlan(name, table.form, table.counts) for name, table in found.items()]
