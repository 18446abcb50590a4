"""Find out what a run would train, annotate and cache, without running it (`cosup plan`).

`make_plan` returns it as data, which `cosup plan --json` prints; `cosup.runs.plan_text` puts the
same data into words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from rich.console import RenderableType

from cosup.config.schema import Config, ExecutionSection
from cosup.data.notes import Note
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
from cosup.runs.costs import CostsPlan, Extent, planned_costs, row_bytes
from cosup.runs.inputs import feature_splits
from cosup.runs.losses import loss_names
from cosup.runs.mirror import usable
from cosup.runs.notebook import as_html, as_text
from cosup.runs.recipes import Candidate, candidates
from cosup.runs.sharded_choose import shard_candidates
from cosup.runs.sharded_plan import ShardsPlan, plan_shards
from cosup.runs.staging import run_place
from cosup.sharded.order import WINDOW
from cosup.sharded.shards import Shards
from cosup.teachers.base import training_rows
from cosup.teachers.features import FeatureCache, cached_part
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec
from cosup.teachers.table import ANNOTATED, TableCounts, TableRead, table_teachers
from cosup.teachers.train import planned_steps


@dataclass(frozen=True)
class RunPlan:
    """Where the run would be written, and how often it would be repeated."""

    place: str
    exists: bool
    seeds: list[int]
    losses: list[str]
    """The names of `rounds.losses`; empty for a run with one loss."""


@dataclass(frozen=True)
class DevicePlan:
    """What the run would compute with."""

    name: str
    precision: str
    decoding_threads: int
    actors: dict[str, int | None] | None = None
    """With Ray, the decoding threads per process of each kind; null is as many as its share of its
    node, which only the cluster tells."""


@dataclass(frozen=True)
class SplitPlan:
    """The samples of a split, and how many of them have no label (None: not counted)."""

    samples: int
    unlabelled: int | None


@dataclass(frozen=True)
class SamplesPlan:
    """The samples: their splits, classes and domains."""

    splits: dict[str, SplitPlan]
    classes: list[str]
    domains: list[str]
    novel_classes: list[str]
    """Classes of `data.few_shot` that measure at the end."""
    wrong_labels: int
    """Labels of student_train that `data.noise` changes."""
    first_ids: list[str]


@dataclass(frozen=True)
class StudentPlan:
    """The student and its training in each round."""

    mode: str
    backbone: str
    steps: int
    batch_size: int
    weights: int | None = None
    """Number of weights of a network that is trained whole."""
    image_size: int | None = None
    episodes: int | None = None
    """Episodes of the meta stage."""


@dataclass(frozen=True)
class FeaturesPlan:
    """Features that the student or the assigner reads."""

    backbone: str
    per_image: int
    image_size: int
    nbytes: int
    cache: str | None
    images: int
    missing: int
    """Images whose features are not in the cache."""


@dataclass(frozen=True)
class PromptsPlan:
    """Prompts of the class names, for a head that starts from text features."""

    names: int
    templates: int
    example: str


@dataclass(frozen=True)
class AnnotationsPlan:
    """What the teachers, those of controls included, would annotate."""

    samples: int
    teachers: int
    nbytes: int
    files: int


@dataclass(frozen=True)
class RoundsPlan:
    """The rounds of a run, or the recipes that it would choose from."""

    rounds: int | None = None
    assigner: str | None = None
    filters: list[str] | None = None
    loss: str | None = None
    """None where `rounds.losses` is given."""
    targets: str | None = None
    recipes: list[str] | None = None
    chosen: str | None = None
    """By what a recipe would be chosen, in words."""
    left_out: dict[str, str] = field(default_factory=dict)
    """The reason for each recipe that cannot be run shard by shard, in a sharded run."""


@dataclass(frozen=True)
class ControlsPlan:
    """The controls, and the reason for each that the data do not allow."""

    names: list[str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher: what it is made of, its scope (None: all) and its training (None: none)."""

    level: int
    name: str
    model: str
    classes: list[str] | None
    domains: list[str] | None
    samples: int | None
    steps: int | None


@dataclass(frozen=True)
class TablePlan:
    """A teacher that is a table: its form, and what became of its rows."""

    teacher: str
    form: str
    counts: TableCounts


@dataclass(frozen=True, repr=False)
class Plan:
    """All that a run would do. None, or an empty list, where there is nothing of a kind.

    Python and notebooks show it as `cosup plan` does.
    """

    run: RunPlan
    device: DevicePlan
    samples: SamplesPlan
    student: StudentPlan
    features: FeaturesPlan | None
    prompts: PromptsPlan | None
    annotations: AnnotationsPlan
    costs: CostsPlan
    rounds: RoundsPlan
    controls: ControlsPlan
    teachers: list[TeacherPlan]
    tables: list[TablePlan]
    notes: list[Note]
    shards: ShardsPlan | None = None
    """Those of a sharded run; annotations and features are then those of the listed samples."""

    def __rich__(self) -> RenderableType:
        from cosup.runs.plan_text import plan_table

        return plan_table(self)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self.__rich__())


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
    found, left_out = _candidates(config, facts)
    rounds = _rounds(config, hierarchy, data, found, left_out)
    shards = _shards(config, facts, annotations, found)
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
        costs=_costs(config, facts, planned, annotations, rounds, shards),
        rounds=rounds,
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
    found: Sequence[Candidate],
) -> ShardsPlan | None:
    if "shards" not in facts:
        return None
    features: FeatureCache = facts["features"]
    with within("student.backbone"):
        per_image = features.describe(config.student.backbone).num_features
    sections = [item.config.rounds for item in found] or [config.rounds]
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


def _costs(
    config: Config,
    facts: Facts,
    features: FeaturesPlan | None,
    annotations: AnnotationsPlan,
    rounds: RoundsPlan,
    shards: ShardsPlan | None,
) -> CostsPlan:
    data: ImageData = facts["samples"]
    compute: Compute = facts["compute"]
    samples, student = _taught(facts), config.student
    count = rounds.rounds or len(rounds.recipes or ())
    folds = student.cross_fit if isinstance(student.cross_fit, int) else 1
    heads = student.mode == "head" and features is not None
    extent = Extent(
        samples=samples,
        others=sum(len(data.rows(split)) for split in SPLITS if split != "student_train"),
        classes=len(data.classes),
        teachers=max((len(level) for level in facts["hierarchy"]), default=0),
        rounds=count,
        fits=count * max(1, folds) + len(_controls(config, facts).names),
        steps=student.training.total_steps(max(1, samples)) * student.training.batch_size,
        features=features.per_image if heads and features else 0,
        missing=(features.missing if features else 0) + (samples if shards else 0),
        image_size=features.image_size if features else 0,
        assigner=rounds.assigner or "fused",
        timed=compute.device.type == "cpu",
    )
    nbytes = annotations.nbytes + (features.nbytes if features else 0)
    where = run_place(config)
    folder = None if isinstance(where, Place) else where
    seeds = len(config.run.seeds or [0])
    costs = planned_costs(extent, nbytes, folder, seeds)
    if shards is None:
        return costs
    # Memory is that of a window of samples, and what is written of each sample is in the shards.
    few = replace(extent, samples=min(samples, WINDOW))
    held = planned_costs(few, 0, folder, 1)
    return replace(costs, memory=held.memory, disk=nbytes + seeds * shards.nbytes)


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
