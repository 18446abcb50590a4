"""The part of a plan that is about costs: how large a run is, and what it takes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cosup.config.rounds import Assigners, RoundsSection
from cosup.config.schema import Config
from cosup.data.section import SPLITS
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.remote import Place
from cosup.runs.checks import Facts
from cosup.runs.costs import CostsPlan, Extent, planned_costs
from cosup.runs.plan import AnnotationsPlan, FeaturesPlan
from cosup.runs.searches import Search, searches_of
from cosup.runs.sharded_plan import ShardsPlan
from cosup.runs.staging import run_place
from cosup.settings.assigners import CrowdKitSettings

__all__ = ["plan_costs"]


def plan_costs(
    config: Config,
    facts: Facts,
    sections: Sequence[RoundsSection],
    features: FeaturesPlan | None,
    annotations: AnnotationsPlan,
    controls: int,
    shards: ShardsPlan | None,
) -> CostsPlan:
    """Return what a run takes. sections: its `rounds`, or those of the recipes that it compares.
    controls: their number."""
    extent = _extent(config, facts, sections, features, controls, shards)
    nbytes = annotations.nbytes + (features.nbytes if features else 0)
    where = run_place(config)
    seeds = len(config.run.seeds or [0])
    costs = planned_costs(extent, nbytes, None if isinstance(where, Place) else where, seeds)
    if shards is None:
        return costs
    return replace(costs, disk=nbytes + seeds * shards.nbytes)  # those of each sample are there


def _extent(
    config: Config,
    facts: Facts,
    sections: Sequence[RoundsSection],
    features: FeaturesPlan | None,
    controls: int,
    shards: ShardsPlan | None,
) -> Extent:
    data: ImageData = facts["samples"]
    compute: Compute = facts["compute"]
    student, levels = config.student, facts["hierarchy"]
    samples = len(data.rows("student_train")) if shards is None else shards.samples
    compares = config.rounds.choose is not None
    rounds = len(sections) if compares else config.rounds.total(len(levels))
    folds = student.cross_fit if isinstance(student.cross_fit, int) else 1
    per_image = features.per_image if features else 0
    return Extent(
        samples=samples,
        others=sum(len(data.rows(split)) for split in SPLITS if split != "student_train"),
        classes=len(data.classes),
        teachers=max((len(level) for level in levels), default=0),
        rounds=rounds,
        fits=rounds * max(1, folds) + controls,
        steps=student.training.total_steps(max(1, samples)) * student.training.batch_size,
        features=per_image if student.mode == "head" else 0,
        missing=(features.missing if features else 0) + (samples if shards else 0),
        image_size=features.image_size if features else 0,
        assigner="fused" if compares else config.rounds.assignment.name,
        timed=compute.device.type == "cpu",
        shard_rows=None if shards is None else shards.rows,
        crowd_method=_crowd_method(sections),
        searches=tuple(_searches(sections, samples, per_image, rounds if shards is None else 1)),
    )


def _crowd_method(sections: Sequence[RoundsSection]) -> str:
    """Return the method of the assigner `crowd_kit`; empty where another one assigns."""
    for section in sections:
        settings = Assigners.settings(section.assignment)
        if isinstance(settings, CrowdKitSettings):
            return settings.method
    return ""


def _searches(
    sections: Sequence[RoundsSection], samples: int, features: int, times: int
) -> Iterator[Search]:
    for section in sections:
        yield from searches_of(section, samples, features, times)
