"""Print what a run would train, annotate and cache, without running it (`cosup plan`)."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.config.schema import Assigners, Config
from cosup.data.section import SPLITS
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.errors import within
from cosup.models.classifier import build_classifier
from cosup.models.clip_text import prompts_of
from cosup.models.compute import Compute
from cosup.models.features import features_key, has_features
from cosup.probabilities import DENSE_LIMIT, TOP_K
from cosup.remote import Place, listing
from cosup.runs.checks import Facts
from cosup.runs.choose import criterion_of, described
from cosup.runs.control_stages import left_out
from cosup.runs.control_teachers import control_teachers
from cosup.runs.inputs import feature_splits
from cosup.runs.losses import loss_names
from cosup.runs.mirror import usable
from cosup.runs.recipes import candidates
from cosup.runs.staging import run_place
from cosup.teachers.base import training_rows
from cosup.teachers.features import FeatureCache, cached_part
from cosup.teachers.hierarchy import Hierarchy, TeacherSpec
from cosup.teachers.table import ANNOTATED, table_teachers
from cosup.teachers.train import planned_steps

MOST_NAMED = 5
"""Maximum number of classes or domains that are listed per scope."""


def plan_table(config: Config, facts: Facts) -> RenderableType:
    """Return samples, teachers, annotations, features, rounds and controls, with their sizes.

    facts: those of every check (`cosup.runs.checks`).
    """
    data: ImageData = facts["samples"]
    hierarchy: Hierarchy = facts["hierarchy"]
    features: FeatureCache = facts["features"]
    compute: Compute = facts["compute"]
    seeds = config.run.seeds or [config.run.seed]
    losses = config.rounds.losses or []
    each = f", {words.noun(len(losses), 'loss')} {', '.join(loss_names(losses))}" if losses else ""
    lines = [
        f"run         {_place(config)}, "
        f"{words.noun(len(seeds), 'seed')} {', '.join(map(str, seeds))}{each}",
        f"device      {compute.device}, {compute.precision}, "
        f"{words.plural(compute.workers, 'decoding thread')}",
        _samples(data),
        *_student(config, data, features),
        _annotations(config, data, hierarchy),
        _rounds(config, hierarchy, data),
        _controls(config, data),
        *(f"{'warning' if note.is_warning else 'note':12}{note.text}" for note in data.notes),
    ]
    return Group(Text("\n".join(lines)), _teachers(data, hierarchy), *_tables(data, hierarchy))


def _controls(config: Config, data: ImageData) -> str:
    """Return the controls, and which of them the data do not allow."""
    absent = left_out(config, data)
    names = [name for name in config.controls if name not in absent]
    text = f"controls    {', '.join(names) or 'none'}"
    reasons = "; ".join(dict.fromkeys(absent.values()))
    if not names:
        return f"{text}{f': {reasons}' if absent else ''}"
    return f"{text} (left out: {', '.join(absent)}: {reasons})" if absent else text


def _place(config: Config) -> str:
    """Return where the run would be written, and whether it exists."""
    where = run_place(config)
    if isinstance(where, Place):
        with usable():
            exists = bool(listing(where.uri))
    else:
        exists = where.exists()
    state = "exists: needs --resume or --overwrite" if exists else "new"
    return f"{where} ({state})"


def _samples(data: ImageData) -> str:
    counts = ", ".join(_split(data, split) for split in SPLITS)
    domains = "" if len(data.domains) == 1 else f", {len(data.domains)} domains"
    ids = ", ".join(data.sample_ids(data.rows("student_train")[:2]))
    novel = "" if data.novel is None else f"; {len(data.novel.classes)} novel classes measure"
    noisy = int(data.noisy(data.rows("student_train")).sum())
    wrong = f"; {noisy:,} labels of student_train are wrong" if noisy else ""
    classes = f"{len(data.classes)} classes{domains}{novel}{wrong}"
    return f"samples     {counts}; {classes}\nsample ids  {ids}, ..."


def _split(data: ImageData, split: str) -> str:
    """Return a split's number of samples, and of those that have no label."""
    rows = data.rows(split)
    unlabelled = len(rows) - len(data.labelled(rows))
    few = f"{unlabelled:,} " if unlabelled < len(rows) else ""
    return f"{split} {len(rows):,}" + (f" ({few}unlabelled)" if unlabelled else "")


def _student(config: Config, data: ImageData, features: FeatureCache) -> Iterator[str]:
    """Yield the student, and the features that it or the assigner reads."""
    section, splits = config.student, feature_splits(config, data)
    if section.mode == "finetune":
        backbone = section.backbone
        network = build_classifier(backbone.name, len(data.classes), None, backbone.image_size)
        weights = sum(p.numel() for p in network.model.parameters())
        steps = section.training.total_steps(len(data.rows("student_train")))
        meta = "" if section.meta is None else f", then {section.meta.steps:,} episodes"
        yield (
            f"student     the whole of {backbone.name}, {weights / 1e6:.2f} million weights, "
            f"{network.input.size} px, {steps:,} steps of {section.training.batch_size} images "
            f"per round{meta}"
        )
    if splits:
        yield _features(config, data, features, splits)
    if section.mode == "head" and section.head.init == "text":
        prompts = prompts_of(section.backbone, section.head, data.classes)
        yield (
            f"prompts     {len(prompts.names)} classes, "
            f"{words.plural(len(prompts.templates), 'template')}, such as '{prompts.texts()[0]}'"
        )


def _features(
    config: Config, data: ImageData, features: FeatureCache, splits: Sequence[str]
) -> str:
    with within("student.backbone"):
        backbone = features.source(config.student.backbone).backbone
    cache = features.compute.cache
    transform = eval_transform(backbone.input).key
    parts = {part.fingerprint: len(part) for part in (cached_part(data, s) for s in splits)}
    todo = sum(
        count
        for fingerprint, count in parts.items()
        if cache is None
        or not has_features(cache, features_key(backbone.identity, transform, fingerprint))
    )
    size = sum(parts.values()) * backbone.num_features * 2
    hit = "all in the cache" if not todo else f"{todo:,} images to pass through the backbone"
    return (
        f"features    {backbone.name}, {backbone.num_features} per image, "
        f"{backbone.input.size} px, {words.size(size)} in {cache}: {hit}"
    )


def _annotations(config: Config, data: ImageData, hierarchy: Hierarchy) -> str:
    counts = [len(data.rows(split)) for split in ANNOTATED]
    samples = sum(counts)
    extra = control_teachers(config, hierarchy, data).values()
    teachers = sum(len(level) for level in (*hierarchy, *extra))
    classes = len(data.classes)
    row = 2 * classes if classes <= DENSE_LIMIT else 6 * TOP_K + 2
    shards = sum(-(-count // config.execution.shard_size) for count in counts)
    return (
        f"annotations {samples:,} samples x {words.plural(teachers, 'teacher')}, about "
        f"{words.size(samples * teachers * row)} in {teachers * shards} files"
    )


def _rounds(config: Config, hierarchy: Hierarchy, data: ImageData) -> str:
    section = config.rounds
    if section.choose is not None:
        names = [f"'{item.name}'" for item in candidates(config, hierarchy)]
        return f"rounds      one of {words.plural(len(names), 'recipe')}, chosen " + (
            f"{described(*criterion_of(config, data))}: {', '.join(names)}"
        )
    levels = 1 if Assigners.settings(section.assignment).fuses else len(hierarchy)
    rounds = max(levels * section.rounds_per_level, section.least_rounds)
    one = section.loss.name if section.losses is None else "each of them"
    filters = ", ".join(choice.name for choice in section.consistency) or "no filter"
    return (
        f"rounds      {rounds}: assigner {section.assignment.name}, "
        f"{filters}, loss {one}, {section.targets} targets"
    )


def _teachers(data: ImageData, hierarchy: Hierarchy) -> Table:
    table = Table("level", "teacher", "model", "classes", "domains", "trains on", "steps", box=None)
    for level in hierarchy:
        for spec in level:
            table.add_row(
                str(spec.level),
                spec.name,
                _made_of(spec),
                *_scope(spec, data),
                *_budget(spec, data),
            )
    return table


def _tables(data: ImageData, hierarchy: Hierarchy) -> Iterator[Table]:
    """Yield what became of the rows of annotation tables, if there are any."""
    teachers = table_teachers(hierarchy, data)
    if not teachers:
        return
    columns = ("table teacher", "form", "rows", "matched", "how", "unmatched", "no answer on")
    table = Table(*columns, box=None)
    for teacher in teachers:
        counts = teacher.counts
        table.add_row(
            teacher.name,
            teacher.answers.form,
            *(words.count(number) for number in (counts.rows, counts.matched)),
            counts.matched_by,
            words.count(counts.unmatched),
            f"{words.count(counts.abstained)} of {words.plural(counts.annotated, 'sample')}",
        )
    yield table


def _scope(spec: TeacherSpec, data: ImageData) -> tuple[str, str]:
    return _some(spec.classes, data.classes), _some(spec.domains, data.domains)


def _some(chosen: Sequence[int] | None, names: Sequence[str]) -> str:
    """List the names if they are few, else the first of them and their number."""
    if chosen is None:
        return "all"
    more = f" ... ({len(chosen)})" if len(chosen) > MOST_NAMED else ""
    return ", ".join(names[index] for index in chosen[:MOST_NAMED]) + more


def _made_of(spec: TeacherSpec) -> str:
    """Return a teacher's model and how it is used, or the table that it is."""
    if spec.external is not None:
        who = f": {spec.external.annotator}" if spec.external.annotator else ""
        table = spec.external.annotations
        return "simulated from the true labels" if table is None else f"{table}{who}"
    return spec.setup.text


def _budget(spec: TeacherSpec, data: ImageData) -> tuple[str, str]:
    steps = planned_steps(spec, data)
    if not steps:
        return "-", "-"
    return f"{len(training_rows(spec, data)):,} samples", f"{steps:,}"
