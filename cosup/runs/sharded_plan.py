"""The part of a plan that is about shards: what a sharded run writes of student_train, and where it
is computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosup.config.rounds import Filters, RoundsSection
from cosup.config.schema import Config, ExecutionSection
from cosup.layout import Layout
from cosup.runs.check import check_known
from cosup.runs.checks import Facts
from cosup.runs.costs import row_bytes
from cosup.runs.searches import Search, searches_of
from cosup.runs.sharded_choose import check_comparable
from cosup.runs.sharded_samples import open_samples, plan_teachers
from cosup.runs.staging import run_place
from cosup.settings.filters import NeighboursSettings
from cosup.sharded.shards import Shards

__all__ = ["ProductPlan", "ShardsPlan", "plan_shards", "sharded_facts"]

DECISION, WEIGHT, LABEL, FINAL = 60, 4, 8, 40
"""Bytes of a row of decisions, with an id of some ten letters, of a weight, of a given label, and
of a row of final labels."""
POSITION, NEIGHBOUR = 8, 12
"""Bytes of a position, and of a neighbour with its cosine."""
COUNTS, CHECK, COLUMNS = 2600, 1300, 5000
"""Bytes of a shard's counts, of its check, and of what a file says of the columns of labels."""


@dataclass(frozen=True)
class ProductPlan:
    """Files of one kind. nbytes: at most, as they are compressed."""

    kind: str
    files: int
    nbytes: int


@dataclass(frozen=True)
class SearchPlan(Search):
    """A search for neighbours, which reads the features of all references for every shard.

    shard_bytes: that each shard reads.
    """

    shards: int
    shard_bytes: int


@dataclass(frozen=True)
class ShardsPlan:
    """The shards of student_train, and the files that are written of them. computed: the part of
    the work, and by what it is done."""

    shards: int
    samples: int
    files: int
    """Files of the manifest."""
    rows: int
    """Rows of the manifest in a shard, at most."""
    place: str
    products: list[ProductPlan]
    computed: dict[str, str]
    searches: list[SearchPlan]

    @property
    def nbytes(self) -> int:
        """Bytes of all products."""
        return sum(product.nbytes for product in self.products)


def sharded_facts(config: Config, facts: Facts) -> Facts:
    """Open the manifest of a config. Return the listed samples, the shards, the teachers, and what
    became of the rows of annotation tables.

    Ids, labels and splits of all rows are read, all of the tables, and no image. Raises
    `UserError`.
    """
    data, shards = open_samples(config, facts["compute"], looks=False)
    check_known(config.rounds, shards.known)
    check_comparable(config, data)
    hierarchy, tables = plan_teachers(config, data, shards)
    read = tables.read_all()
    tables.close()
    return {"samples": data, "shards": shards, "hierarchy": hierarchy, "tables": read}


def plan_shards(
    config: Config, shards: Shards, teachers: int, rounds: int, features: int
) -> ShardsPlan:
    """Return what is written of the shards. rounds: of the run, or of the recipe with most of those
    that are compared. features: numbers per image."""
    return ShardsPlan(
        shards=len(shards),
        samples=shards.samples,
        files=len(shards.reader.files),
        rows=config.execution.shard_size,
        place=str(run_place(config) / str(Layout(Path()).shards)),
        products=list(_products(config, shards, teachers, rounds, features)),
        computed=_computed(config.execution, config.student.mode == "head"),
        searches=list(_searches(config.rounds, shards, features)),
    )


def _searches(rounds: RoundsSection, shards: Shards, features: int) -> Iterator[SearchPlan]:
    for search in searches_of(rounds, shards.samples, features):
        read = search.references * (features * 2 + POSITION)
        yield SearchPlan(**vars(search), shards=len(shards), shard_bytes=read)


def _products(
    config: Config, shards: Shards, teachers: int, rounds: int, features: int
) -> Iterator[ProductPlan]:
    count, samples, row = len(shards), shards.samples, row_bytes(len(shards.classes))
    if config.data.check != "none":
        yield ProductPlan("checks", count, count * CHECK)
    yield ProductPlan("annotations", count * teachers, samples * teachers * row)
    yield ProductPlan("features", count, samples * features * 2)
    learned = LABEL if config.rounds.true_label_weight else 0
    decided = samples * (DECISION + WEIGHT + learned) + count * COUNTS
    yield ProductPlan("decisions", 3 * count * rounds, decided * rounds)
    yield ProductPlan("targets", count * rounds, samples * row * rounds)
    for choice in config.rounds.consistency:
        settings = Filters.settings(choice)
        if isinstance(settings, NeighboursSettings):
            nearest = min(settings.k, samples - 1) * NEIGHBOUR + POSITION
            yield ProductPlan("neighbours", count, samples * nearest)
    # An untrained student may guide the first round.
    students = rounds + (config.rounds.first_guide == "student")
    yield ProductPlan("predictions", count * students, samples * row * students)
    yield ProductPlan("labels", count, count * COLUMNS + samples * FINAL)
    if config.rounds.choose is not None:
        # Beside those of the recipe that is run, there are those of the one before it.
        files, nbytes = count * (5 * rounds - 1), decided + samples * row
        most = nbytes * rounds + samples * row * (rounds - 1)
        yield ProductPlan("of another recipe while they are compared", files, most)


def _computed(execution: ExecutionSection, is_head: bool) -> dict[str, str]:
    if execution.backend != "ray":
        return {"everything": "this process, shard after shard"}
    apart = "images decoded " + (
        "apart where actors have a GPU" if execution.decode == "auto" else f"by {execution.decode}"
    )
    return {
        "teachers and annotations": f"actors of execution.teachers, {apart}",
        "features": f"actors of execution.features, {apart}",
        "decisions and sums": "actors of execution.shards",
        "the student's training": "this process" if is_head else "workers of execution.student",
        "its predictions": f"actors of execution.{'shards' if is_head else 'features'}",
    }
