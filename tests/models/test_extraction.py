"""Conditions of an extraction: what changes digits is in the key, the rest is reported."""

from dataclasses import asdict, replace

import torch

from cosup.models.extraction import BATCH, Conditions

HERE = Conditions.of(torch.device("cpu"), BATCH)


def test_batches_are_as_large_for_every_larger_batch_size() -> None:
    keys = {Conditions.of(torch.device("cpu"), size).key for size in (BATCH, 100, 4096)}
    assert keys == {HERE.key}


def test_a_smaller_batch_another_device_and_a_single_thread_have_keys_of_their_own() -> None:
    others = [
        Conditions.of(torch.device("cpu"), 16),
        Conditions.of(torch.device("cuda"), BATCH, here=False),
        replace(HERE, threads=1),
        replace(HERE, threads=2),
    ]
    assert len({condition.key for condition in others}) == len(others)
    assert replace(HERE, threads=2).key == replace(HERE, threads=8).key


def test_threads_of_the_cpu_do_not_matter_for_features_of_a_gpu() -> None:
    gpu = replace(HERE, device="cuda", processor="A")
    assert replace(gpu, threads=1).key == replace(gpu, threads=4).key
    assert replace(gpu, threads=1).differences(asdict(replace(gpu, threads=4))) == []


def test_differences_name_what_was_otherwise() -> None:
    assert HERE.differences(asdict(HERE)) == []
    (found,) = HERE.differences({**asdict(HERE), "torch_version": "1.0"})
    assert "1.0" in found
    assert HERE.torch_version in found
    assert len(HERE.differences({**asdict(HERE), "threads": 999, "processor": "OTHER"})) == 2


def test_what_is_not_known_is_no_difference() -> None:
    assert HERE.differences({**asdict(HERE), "processor": ""}) == []
    assert replace(HERE, processor="").differences(asdict(HERE)) == []
    for damaged in (None, [], {"threads": None}):
        assert HERE.differences(damaged) == []
