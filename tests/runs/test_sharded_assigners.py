"""The plan of a sharded run: which assigners a manifest allows, and what a search takes."""

from pathlib import Path

import pytest
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config
from helpers.user_errors import keys_of, mistakes_of

from cosup import Plan
from cosup.runs import plan_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two manifests: in `known` samples of student_train have a label."""
    folder = tmp_path_factory.mktemp("manifests")
    labels = write_digits(folder / "images", 200)
    write_manifest(folder / "rows", labels, 260, 200)
    write_manifest(folder / "known", labels, 260, 200, truth=True)
    return folder


def test_oracles_need_a_manifest_with_labels(folder: Path) -> None:
    rounds = {"assignment": "oracle", "true_label_weight": 0.5}
    found = keys_of(mistakes_of(plan_config, sharded_config(folder / "rows", rounds=rounds)))
    assert found == ["rounds.assignment", "rounds.true_label_weight"]
    assert plan_config(sharded_config(folder / "known", rounds=rounds)).shards is not None


@pytest.mark.parametrize("assigner", ["raven", "single"])
def test_an_assigner_that_cannot_use_the_teachers_is_refused(folder: Path, assigner: str) -> None:
    levels = [1] if assigner == "raven" else [1, 2]
    teachers = {"hierarchy": {"by": "class", "levels": levels}}
    config = sharded_config(folder / "rows", teachers=teachers, rounds={"assignment": assigner})
    (error,) = mistakes_of(plan_config, config)
    assert assigner in str(error)


def test_a_plan_has_the_memory_and_the_time_of_a_search_in_shards(folder: Path) -> None:
    def plan(filters: list[str]) -> Plan:
        rounds = {"assignment": "mean", "true_label_weight": 0.5, "consistency": filters}
        return plan_config(sharded_config(folder / "known", rounds=rounds))

    plain, found = plan([]), plan(["neighbours"])
    assert found.shards is not None
    (search,) = found.shards.searches
    assert (search.references, search.neighbours) == (search.samples, search.samples - 1)
    assert search.shard_bytes > search.references * search.features * 2
    assert "neighbours" in repr(found)
    assert found.costs.memory - plain.costs.memory == pytest.approx(search.memory(100), rel=0.1)
    assert found.costs.seconds is not None
    assert plain.costs.seconds is not None
    assert found.costs.seconds > plain.costs.seconds
