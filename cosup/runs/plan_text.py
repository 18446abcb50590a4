"""Put the plan of a run into words and tables (`cosup plan`)."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosup import words
from cosup.runs.costs import CostsPlan
from cosup.runs.plan import FeaturesPlan, Plan, RoundsPlan, SplitPlan, StudentPlan
from cosup.runs.sharded_plan import SearchPlan, ShardsPlan

MOST_NAMED = 5
"""Maximum number of classes or domains that are listed per scope."""


def plan_table(plan: Plan) -> RenderableType:
    """Return a line for each part of a plan, then the teachers and what became of their tables."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in _lines(plan):
        table.add_row(name, Text(text))
    return Group(table, _teachers(plan), *_tables(plan))


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "run", _run(plan)
    device = plan.device
    threads = words.plural(device.decoding_threads, "decoding thread")
    yield "device", f"{device.name}, {device.precision}, {threads}"
    if device.actors is not None:
        yield "Ray", _actors(device.actors)
    yield "samples", _samples(plan)
    yield "sample ids", f"{', '.join(plan.samples.first_ids)}, ..."
    yield "student", _student(plan.student)
    if plan.features is not None:
        yield "features", _features(plan.features)
    if plan.prompts is not None:
        prompts = plan.prompts
        templates = words.plural(prompts.templates, "template")
        yield "prompts", f"{prompts.names} classes, {templates}, such as '{prompts.example}'"
    made = plan.annotations
    yield (
        "annotations",
        f"{made.samples:,} samples x {words.plural(made.teachers, 'teacher')}, about "
        f"{words.size(made.nbytes)} in {made.files} files",
    )
    if plan.shards is not None:
        yield from _shards(plan.shards)
    yield "costs", _costs(plan.costs)
    if plan.costs.too_much:
        less = " and ".join(plan.costs.too_much)
        yield "warning", f"there is less {less} than the run takes by this estimate"
    yield "rounds", _rounds(plan.rounds)
    yield "controls", _controls(plan)
    for note in plan.notes:
        yield "warning" if note.is_warning else "note", note.text


def _actors(actors: Mapping[str, int | None]) -> str:
    """Return the decoding threads per process of each kind."""
    named = "; ".join(f"{name} {n or 'auto'}" for name, n in actors.items())
    auto = (
        ". auto: the CPUs per GPU of the node x num_gpus, without a GPU 1; of actors no more than "
        "decode as many images/s as the GPU computes, measured when they start"
    )
    rates = "" if all(actors.values()) else auto
    return f"decoding threads per actor and worker: {named}{rates}"


def _run(plan: Plan) -> str:
    run = plan.run
    state = "exists: needs --resume or --overwrite" if run.exists else "new"
    seeds = f"{words.noun(len(run.seeds), 'seed')} {', '.join(map(str, run.seeds))}"
    losses = f", {words.noun(len(run.losses), 'loss')} {', '.join(run.losses)}"
    return f"{run.place} ({state}), {seeds}{losses if run.losses else ''}"


def _samples(plan: Plan) -> str:
    samples = plan.samples
    counts = ", ".join(_split(name, split) for name, split in samples.splits.items())
    domains = "" if len(samples.domains) == 1 else f", {len(samples.domains)} domains"
    novel, wrong = len(samples.novel_classes), samples.wrong_labels
    measure = f"; {novel} novel classes measure" if novel else ""
    noise = f"; {wrong:,} labels of student_train are wrong" if wrong else ""
    return f"{counts}; {len(samples.classes)} classes{domains}{measure}{noise}"


def _split(name: str, split: SplitPlan) -> str:
    """Return a split's number of samples, and of those that have no label."""
    if not split.unlabelled:
        return f"{name} {split.samples:,}"
    few = f"{split.unlabelled:,} " if split.unlabelled < split.samples else ""
    return f"{name} {split.samples:,} ({few}unlabelled)"


def _student(student: StudentPlan) -> str:
    training = f"{student.steps:,} steps of {student.batch_size}"
    if student.weights is None:
        return f"a head on features of {student.backbone}, {training} samples per round"
    meta = "" if student.episodes is None else f", then {student.episodes:,} episodes"
    return (
        f"the whole of {student.backbone}, {student.weights / 1e6:.2f} million weights, "
        f"{student.image_size} px, {training} images per round{meta}"
    )


def _features(features: FeaturesPlan) -> str:
    todo = f"{features.missing:,} images to pass through the backbone"
    return (
        f"{features.backbone}, {features.per_image} per image, {features.image_size} px, "
        f"{words.size(features.nbytes)} in {features.cache}: "
        f"{todo if features.missing else 'all in the cache'}"
    )


def _shards(shards: ShardsPlan) -> Iterator[tuple[str, str]]:
    """Yield the shards, the files that are written of each kind, and what computes them."""
    files = words.plural(shards.files, "file")
    yield (
        "shards",
        f"{shards.samples:,} samples of student_train in {words.plural(shards.shards, 'shard')} of "
        f"at most {shards.rows:,} rows of {files}",
    )
    parts = ", ".join(
        f"{one.kind} {words.size(one.nbytes)} in {words.plural(one.files, 'file')}"
        for one in shards.products
    )
    yield "of shards", f"at most {words.size(shards.nbytes)} in {shards.place}: {parts}"
    for search in shards.searches:
        yield "neighbours", _search(search)
    where = "; ".join(f"{part} by {who}" for part, who in shards.computed.items())
    yield "computed", where


def _search(search: SearchPlan) -> str:
    """Return what a search for neighbours takes, and what takes less."""
    each = f" in each of {search.times} rounds" if search.times > 1 else ""
    return (
        f"{search.what}{each}: {search.comparisons:,} cosines of {search.features} numbers, of "
        f"{search.samples:,} samples with {search.references:,}; each of "
        f"{words.plural(search.shards, 'shard')} reads at most {words.size(search.shard_bytes)} of "
        f"features, {words.size(search.shards * search.shard_bytes)} in all; about "
        f"{words.duration(search.seconds)} of one core. Less: {search.smaller}"
    )


def _costs(costs: CostsPlan) -> str:
    """Return memory, disk and time, and what there is of them."""
    memory = f"{words.size(costs.memory)} of memory"
    if costs.usable_memory is not None:
        memory += f" (of {words.size(costs.usable_memory)})"
    disk = f"{words.size(costs.disk)} on disk"
    if costs.free_disk is not None:
        disk += f" ({words.size(costs.free_disk)} free)"
    time = "" if costs.seconds is None else f", {words.duration(costs.seconds)} of one core"
    return f"about {memory}, {disk}{time}, each to within a factor of three"


def _rounds(rounds: RoundsPlan) -> str:
    if rounds.recipes is not None:
        names = ", ".join(f"'{name}'" for name in rounds.recipes)
        text = (
            f"one of {words.plural(len(rounds.recipes), 'recipe')}, chosen {rounds.chosen}: {names}"
        )
        absent = "; ".join(f"'{name}': {reason}" for name, reason in rounds.left_out.items())
        return f"{text} (left out: {absent})" if absent else text
    filters = ", ".join(rounds.filters or ()) or "no filter"
    loss = rounds.loss or "each of them"
    return (
        f"{rounds.rounds}: assigner {rounds.assigner}, {filters}, loss {loss}, "
        f"{rounds.targets} targets"
    )


def _controls(plan: Plan) -> str:
    """Return the controls, and which of them the data do not allow."""
    names, absent = plan.controls.names, plan.controls.left_out
    text = ", ".join(names) or "none"
    reasons = "; ".join(dict.fromkeys(absent.values()))
    if not names:
        return f"{text}{f': {reasons}' if absent else ''}"
    return f"{text} (left out: {', '.join(absent)}: {reasons})" if absent else text


def _teachers(plan: Plan) -> Table:
    table = Table("level", "teacher", "model", "classes", "domains", "trains on", "steps", box=None)
    for teacher in plan.teachers:
        table.add_row(
            str(teacher.level),
            teacher.name,
            teacher.model,
            _some(teacher.classes),
            _some(teacher.domains),
            "-" if teacher.samples is None else f"{teacher.samples:,} samples",
            "-" if teacher.steps is None else f"{teacher.steps:,}",
        )
    return table


def _some(names: Sequence[str] | None) -> str:
    """List the names if they are few, else the first of them and their number."""
    if names is None:
        return "all"
    more = f" ... ({len(names)})" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _tables(plan: Plan) -> Iterator[Table]:
    """Yield what became of the rows of annotation tables, if there are any."""
    if not plan.tables:
        return
    columns = ("table teacher", "form", "rows", "matched", "how", "unmatched", "no answer on")
    table = Table(*columns, box=None)
    for one in plan.tables:
        counts = one.counts
        table.add_row(
            one.teacher,
            one.form,
            *(words.count(number) for number in (counts.rows, counts.matched)),
            counts.matched_by,
            words.count(counts.unmatched),
            f"{words.count(counts.abstained)} of {words.plural(counts.annotated, 'sample')}",
        )
    yield table
