"""A sharded run, killed anywhere and resumed, ends with the numbers of one that was not."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config
from helpers.user_errors import keys_of, mistakes_of

from cosup.models.compute import Compute
from cosup.runs import backend, check_run, run_config
from cosup.sharded.shards import Shard
from cosup.sharded.work import LocalExecutor, Work

ROWS, LABELLED = 900, 400


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    labels = write_digits(folder / "images", 500)
    return write_manifest(folder / "rows", labels, ROWS, LABELLED, files=2)


class Killed(BaseException):
    """Ends a run, as a signal does."""


def kill_after(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    """End the run after the work on so many shards."""
    left = shards

    class Dying(LocalExecutor):
        def run(self, work: Work[Any], shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
            nonlocal left
            for found in super().run(work, shards):
                if left == 0:
                    raise Killed
                left -= 1
                yield found

    def dying(compute: Compute) -> Dying:
        return Dying(compute)

    monkeypatch.setattr(backend, "LocalExecutor", dying)


def numbers_of(summary: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in summary.items() if k not in ("seconds", "peak_rss_mb")}


def test_a_killed_run_is_resumed_with_the_same_numbers(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refine = {"name": "product", "rounds": 1}
    rounds = {"refine": refine, "labelled": True, "labelled_weight": 2.0}
    config = sharded_config(manifest, rounds=rounds)
    expected = run_config(config, tmp_path / "whole")
    assert ["refined" in one for one in expected["rounds"]] == [False, False, True]
    assert 0 < expected["rounds"][-1]["refined"] < 0.9
    assert expected["data"]["samples"]["student_train"] == ROWS - LABELLED
    assert sum(expected["rounds"][0]["assigned"].values()) == ROWS - LABELLED
    assert expected["controls_absent"].keys() == {"ceiling"}
    assert expected["student"]["accuracy"] > 0
    for place, shards in enumerate((3, 20, 40, 55)):
        with monkeypatch.context() as patch:
            kill_after(patch, shards)
            with pytest.raises(Killed):
                run_config(config, tmp_path / f"cut-{place}")
        found = run_config(config, tmp_path / f"cut-{place}", resume=True)
        assert numbers_of(found) == numbers_of(expected)


def test_decisions_are_a_folder_of_shards(manifest: Path, tmp_path: Path) -> None:
    run_config(sharded_config(manifest), tmp_path / "run")
    files = sorted((tmp_path / "run" / "shards" / "decisions" / "round-2").rglob("*.parquet"))
    table = pd.concat([pd.read_parquet(file) for file in files])
    assert len(table) == table["sample_id"].nunique() == ROWS - LABELLED


def test_all_settings_that_are_not_supported_are_told_at_once(
    manifest: Path, tmp_path: Path
) -> None:
    config = sharded_config(
        manifest,
        run={"seeds": [0, 1]},
        rounds={"assignment": "dawid_skene", "true_label_weight": 0.5},
    )
    found = keys_of(mistakes_of(check_run, config, tmp_path / "run"))
    assert found == ["rounds.true_label_weight", "run.seeds"]
    refine = {"name": "product", "neighbours": 5}
    both = {"assignment": "dawid_skene", "labelled": True, "refine": refine}
    found = keys_of(mistakes_of(check_run, sharded_config(manifest, rounds=both), tmp_path / "run"))
    assert found == ["rounds.labelled_weight", "rounds.refine.neighbours"]
    filtered = sharded_config(
        manifest, rounds={"assignment": "fused", "consistency": ["local_global"]}
    )
    found = keys_of(mistakes_of(check_run, filtered, tmp_path / "run"))
    assert found == ["rounds.assignment", "rounds.consistency"]
    assert not (tmp_path / "run").exists()
