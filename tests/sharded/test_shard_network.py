"""Networks that learn from shards: each sample once a pass, and the numbers of a killed run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.digits_manifest import write_digits, write_manifest
from helpers.sharded_config import sharded_config

from cosup.config.schema import Config
from cosup.models import train
from cosup.runs import run_config
from cosup.sharded.lesson import LabelledRows
from cosup.sharded.order import ShardOrder

COUNTS = [7, 40, 1, 23, 30, 12]


@pytest.mark.parametrize(("size", "window"), [(16, 50), (10, 1), (113, 1000)])
def test_each_sample_is_drawn_once_in_a_pass_by_windows(size: int, window: int) -> None:
    total = sum(COUNTS)
    order = ShardOrder(COUNTS, size, seed=0, window=window)
    drawn = torch.cat([order.places(step) for step in range(2 * total // size + 1)])
    every = sorted((shard, row) for shard, count in enumerate(COUNTS) for row in range(count))
    passes = [[tuple(one) for one in drawn[n * total : (n + 1) * total].tolist()] for n in (0, 1)]
    assert sorted(passes[0]) == sorted(passes[1]) == every
    assert passes[0] != passes[1]
    for step in (1, 0):  # any step, in any order, also in a process of its own
        places = slice(step * size, (step + 1) * size)
        again = ShardOrder(COUNTS, size, seed=0, window=window).places(step)
        assert torch.equal(again, drawn[places])
        assert torch.equal(order.places(step), drawn[places])


def test_labelled_samples_are_drawn_once_in_a_pass_among_the_others() -> None:
    some = torch.arange(20)
    beside = LabelledRows(some, some, torch.zeros(20), torch.zeros(20, 0))
    order = ShardOrder(COUNTS, 7, seed=0, window=40, labelled=beside)
    total = sum(COUNTS) + 20
    drawn = torch.cat([order.places(step) for step in range(2 * total // 7 + 1)])
    for number in (0, 1):
        own = drawn[number * total : (number + 1) * total]
        labelled = own[:, 0] == len(COUNTS)
        assert torch.equal(own[labelled, 1].sort().values, some)
        assert 5 < int(labelled[: total // 2].sum()) < 15


def test_a_batch_needs_the_shards_of_two_windows_at_most() -> None:
    order = ShardOrder([50] * 40, 20, seed=1, window=200)
    for step in range(100):
        assert len(order.places(step)[:, 0].unique()) <= order.most_shards <= 11


def config_of(manifest: Path, rounds: dict[str, Any], **training: Any) -> Config:
    backbone = {"name": "cifar_resnet8", "weights": None, "image_size": 16}
    student = {
        "mode": "finetune",
        "backbone": backbone,
        "training": {"steps": 4, "batch_size": 24, "save_every": 2, **training},
    }
    filters = [{"name": "teacher_student", "mode": "mask", "k": 3}, {"name": "local_global"}]
    return sharded_config(
        manifest,
        teachers={"model": {"name": "linear_pixels", "size": 8}},
        student=student,
        rounds={"assignment": "confidence", "consistency": filters, **rounds},
    )


def test_a_killed_training_is_resumed_with_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_digits(tmp_path / "images", 220)
    manifest = write_manifest(tmp_path / "rows", labels, 220, 100, files=2)
    more = {"refine": {"name": "product", "rounds": 1}, "labelled": True, "labelled_weight": 3}
    config = config_of(manifest, more, augment={"flip": 0.5})
    expected = run_config(config, tmp_path / "whole")
    assert [one["samples"] for one in expected["rounds"]] == [120, 120, 120]
    assert expected["rounds"][2]["refined"] > 0
    assert expected["rounds"][1]["kept"] < 1  # by the first round's student

    class Killed(BaseException):
        pass

    trained: list[str] = []

    def step(run: train.Step, *arguments: Any) -> Any:
        if len(trained) == last:
            raise Killed
        trained.append("step")
        return call(run, *arguments)

    call = train.Step.__call__
    # In the second round: of a local student of `local_global`, and of a fold.
    for last in (19, 31):
        with monkeypatch.context() as patch:
            patch.setattr(train.Step, "__call__", step)
            with pytest.raises(Killed):
                run_config(config, tmp_path / "cut", resume=last > 19)
    found = run_config(config, tmp_path / "cut", resume=True)
    left_out = ("seconds", "peak_rss_mb", "run")
    assert {k: v for k, v in found.items() if k not in left_out} == {
        k: v for k, v in expected.items() if k not in left_out
    }
