"""The stages `sources` and `labels` of a sharded run: estimates of every source, and labels out."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cosup.analysis.labels import NOT_LABELLED
from cosup.analysis.records import Run
from cosup.analysis.review_list import RECORDED
from cosup.config.schema import Assigners
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.runs.assemble import Prepared
from cosup.runs.context import RunContext
from cosup.runs.directory import RunDirectory
from cosup.runs.labels import STAGE as LABELS
from cosup.runs.sharded_index import LABELLED
from cosup.runs.sources import STAGE as SOURCES
from cosup.runs.sources import source_numbers, teachers_of
from cosup.runs.summary import Numbers
from cosup.seeds import seed_for
from cosup.sharded.labels import LastRound, label_shards, sum_sources
from cosup.sharded.rounds import ShardTask
from cosup.sharded.store import Product, ShardStore
from cosup.sharded.work import Executor
from cosup.sources import STUDENT
from cosup.teachers.table import TableTeacher
from cosup.words import percent

__all__ = ["finish_shard_labels", "label_tables", "pictured"]

log = logging.getLogger(__name__)


def finish_shard_labels(
    context: RunContext,
    prepared: Prepared,
    task: ShardTask,
    rounds: Sequence[Numbers],
    executor: Executor,
) -> Numbers:
    """Estimate every source and label the shards; return `sources`, `labels` and `agreement` of the
    summary. Each stage is computed once; labels that are gone are written again."""
    run, last = context.run, _last_round(context, prepared, task, rounds)
    if not run.is_done(SOURCES):
        started = time.monotonic()
        sources = _sources(context, prepared, last, executor)
        run.finish(SOURCES, {"seconds": time.monotonic() - started, "sources": sources})
    if not run.is_done(LABELS) or last.store.missing(
        Product(**run.load(LABELS)[LABELLED]), task.shards
    ):
        started = time.monotonic()
        product, found = label_shards(last, executor)
        labels = found.sums.numbers(prepared.data.classes)
        shared = found.agreement.numbers([*last.teachers, STUDENT])
        numbers = {
            "labels": labels,
            "agreement": {"cross_fitted": last.cross_fitted, **shared},
            RECORDED: _plain(found.first),
            LABELLED: vars(product),
        }
        run.finish(LABELS, {"seconds": time.monotonic() - started, **numbers})
        log.info(
            "labels of %d samples: %s (about %s right, estimated)",
            labels["samples"],
            run.files.shards / product.folder,
            percent(labels["estimated_right"]),
        )
    made = run.load(LABELS)
    return {
        "sources": run.load(SOURCES)["sources"],
        "labels": made["labels"],
        "agreement": made["agreement"],
    }


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as values that JSON has."""
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return found


def pictured(run: RunDirectory, task: ShardTask) -> Iterator[ImageData]:
    """Yield the samples of shards that the report shows, those of one shard at a time."""
    samples, shards = task.levels[0].samples, {shard.number: shard for shard in task.shards}
    wanted: dict[int, set[str]] = {}
    for row in run.load(LABELS)[RECORDED]:
        wanted.setdefault(row["shard"], set()).add(row["sample_id"])
    for number, names in wanted.items():
        data = samples.read(shards[number])
        yield data.subset(np.flatnonzero(data.table["sample_id"].isin(names)))


def label_tables(run: Run) -> Iterator[pd.DataFrame]:
    """Yield the labels of a finished sharded run, shard after shard.

    Columns: those of `labels.parquet` but for `review_rank`. Raises `UserError` for a run without
    labels, and `RunError` for a file that is damaged or gone.
    """
    record = run.stages.get(LABELS, {}).get(LABELLED)
    if record is None or not run.files.shard_index.exists():
        raise UserError(NOT_LABELLED, where=run.place)
    product = Product(**record)
    store = ShardStore(f"{run.place}/{run.files.shards.name}")
    for path in sorted(run.files.shard_index.read()["path"].astype("str")):
        folder, _, name = path.rpartition("/")
        if folder == product.folder:
            yield store.table(product, int(name.partition(".")[0])).to_pandas()


def _last_round(
    context: RunContext, prepared: Prepared, task: ShardTask, rounds: Sequence[Numbers]
) -> LastRound:
    last, number = rounds[-1], len(rounds)
    assigner = Assigners.build(context.config.rounds.assignment)
    file = context.files.round(number).assigner
    if file.exists():
        assigner.load_state_dict(file.read())
    guide = task.guide if context.config.rounds.first_guide == "student" else None
    if number > 1:
        guide = Product(**rounds[-2]["products"]["predictions"])
    return LastRound(
        task,
        last["level"],
        assigner,
        Product(**last["products"]["decisions"]),
        Product(**last["products"]["predictions"]),
        last["cross_fitted"],
        guide,
        tuple(teachers_of(prepared)),
        frozenset(
            one.name
            for level in prepared.annotated.levels
            for one in level
            if isinstance(one, TableTeacher)
        ),
        context.seed,
    )


def _sources(
    context: RunContext, prepared: Prepared, last: LastRound, executor: Executor
) -> Numbers:
    data, scopes = prepared.data, last.task.levels[last.level].scopes
    sums, fused, own = sum_sources(last, len(data.domains), executor)
    found = fused.sources(scopes)
    return source_numbers(
        sums,
        found,
        sums.shares([*scopes.names, STUDENT]) if own else {},
        prepared,
        data.domains if len(data.domains) > 1 else found.regions,
        seed_for(context.seed, "bootstrap"),
    )
