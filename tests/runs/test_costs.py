"""The costs that `cosup plan` tells: what was measured, and what the machine has."""

from dataclasses import replace
from pathlib import Path

import pytest

from cosup.config.rounds import RoundsSection
from cosup.runs import machine
from cosup.runs.costs import Extent, planned_costs
from cosup.runs.searches import searches_of

QUICKSTART = Extent(
    samples=3596,
    others=1436,
    classes=10,
    teachers=4,
    rounds=3,
    fits=20,
    steps=76_800,
    features=1280,
    missing=7188,
    image_size=64,
    assigner="fused",
)


def memory(extent: Extent) -> int:
    return planned_costs(extent, 0, None, 1).memory


def test_the_quickstart_is_estimated_within_a_factor_of_three() -> None:
    found = planned_costs(QUICKSTART, 0, None, 1)
    assert found.seconds is not None
    assert 86 / 3 < found.seconds < 86 * 3  # tests/benchmarks/README.md
    assert 1.2e9 / 3 < found.memory < 1.2e9 * 3


def test_memory_does_not_hold_samples_times_teachers_times_classes() -> None:
    large = replace(QUICKSTART, samples=10**6, classes=1000, teachers=15)
    assert memory(large) < 10**6 * 15 * 1000 * 2 / 4  # a quarter of it in float16
    assert memory(large) > memory(replace(large, samples=10**5))


def test_dawid_skene_has_a_confusion_matrix_per_teacher() -> None:
    many = replace(QUICKSTART, classes=1000, teachers=128, assigner="dawid_skene")
    assert 1.5e9 < memory(many) - memory(QUICKSTART) < 6e9


def test_crowd_kit_holds_the_answers_to_all_samples_also_of_shards() -> None:
    large = replace(QUICKSTART, samples=10**6, classes=20, teachers=5)
    crowd = replace(large, assigner="crowd_kit", crowd_method="one_coin")
    assert 2e9 < memory(crowd) - memory(large) < 10e9  # 10^8 cells of about 50 bytes
    few, many = (replace(one, shard_rows=4096) for one in (large, crowd))
    assert memory(few) < memory(large) / 1.5
    assert memory(many) - memory(few) > 2e9
    glad = replace(many, crowd_method="glad")
    assert memory(glad) - memory(few) > 4 * (memory(many) - memory(few))


def test_neighbours_hold_the_features_of_all_samples_or_of_a_shard() -> None:
    rounds = RoundsSection.model_validate({"consistency": ["neighbours"]})
    large = replace(QUICKSTART, samples=10**6)
    searched = replace(large, searches=tuple(searches_of(rounds, 10**6, 1280)))
    added = memory(searched) - memory(large)
    assert added > 10**6 * (1280 * 4 + 250 * 4)  # float32 features, and places of neighbours
    of_shards = memory(replace(searched, shard_rows=4096))
    assert 0 < of_shards - memory(replace(large, shard_rows=4096)) < added / 10
    before, after = (planned_costs(one, 0, None, 1).seconds for one in (large, searched))
    assert before is not None
    assert after is not None
    assert after > 10 * before  # 10^12 cosines


def test_a_refinement_with_neighbours_holds_the_features_of_its_references() -> None:
    def added(references: int, neighbours: int = 10) -> int:
        refine = {"name": "product", "neighbours": neighbours, "references": references}
        rounds = RoundsSection.model_validate({"assignment": "mean", "refine": refine})
        searches = tuple(searches_of(rounds, 10**6, 1280))
        return memory(replace(QUICKSTART, searches=searches)) - memory(QUICKSTART)

    assert added(500_000) - added(100_000) == pytest.approx(400_000 * 1280 * 2)
    assert added(10**7) == added(10**6)  # there are no more samples
    assert added(100_000, neighbours=0) == 0


def test_seeds_repeat_the_time_but_share_annotations_and_features() -> None:
    one, five = (planned_costs(QUICKSTART, 10**9, None, seeds) for seeds in (1, 5))
    assert one.seconds is not None
    assert five.seconds == pytest.approx(5 * one.seconds)
    assert five.disk < 2 * one.disk


def test_time_is_not_told_where_nothing_was_measured() -> None:
    assert planned_costs(replace(QUICKSTART, timed=False), 0, None, 1).seconds is None
    assert planned_costs(replace(QUICKSTART, features=0), 0, None, 1).seconds is None


@pytest.mark.parametrize(("text", "limited"), [("1000000", True), ("max", False), ("", False)])
def test_a_limit_of_the_container_counts(
    text: str, limited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "memory.max"
    file.write_text(text)
    monkeypatch.setattr(machine, "CONTROL_GROUPS", (str(file), str(tmp_path / "absent")))
    found = machine.usable_memory()
    assert found is not None
    assert (found == 10**6) is limited


def test_a_folder_that_is_not_there_yet_has_a_disk(tmp_path: Path) -> None:
    assert machine.free_disk(tmp_path / "runs" / "new") > 0
    assert machine.free_disk(Path("relative")) > 0
