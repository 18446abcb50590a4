"""Training in several processes gives the results of one process."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import several_ranks
import torch
from helpers.student_jobs import (
    meta_job,
    network_job,
    same,
)

from cosup.errors import UserError
from cosup.models.classifier import build_classifier
from cosup.models.ranks import ALONE, BATCH_NORMS, Ranks, check_slices, with_sync_norms
from cosup.models.train import TrainModule

Found = dict[str, Any]


def together(size: int, folder: Path, forks: list[str]) -> list[Found]:
    """Return the results of every rank."""
    here = Path(several_ranks.__file__)
    path = os.pathsep.join([str(here.parents[2]), str(here.parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    processes = [
        subprocess.Popen(
            [*forks, str(here), str(rank), str(size), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, forks: list[str]) -> list[Found]:
    """Return the results of two ranks."""
    return together(2, tmp_path_factory.mktemp("ranks"), forks)


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory: pytest.TempPathFactory, forks: list[str]) -> list[Found]:
    """Return a training of three ranks, and the same interrupted and resumed."""
    return together(3, tmp_path_factory.mktemp("three"), forks)


@pytest.fixture(scope="module")
def alone() -> Found:
    """Return the results of one process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return several_ranks.results(ALONE)
    finally:
        torch.set_num_threads(before)


STEP_BY_STEP = ["plain", "plain in parts", "with batch norm"]


@pytest.mark.parametrize("what", STEP_BY_STEP)
def test_gradients_equal_those_of_the_whole_batch(
    what: str, ranks: list[Found], alone: Found
) -> None:
    """With slices of unequal size and weight, each step equals that of one process up to rounding;
    the network's batch norms use the slices of both ranks."""
    for name, tensor in alone[what].items():
        torch.testing.assert_close(ranks[0][what][name], tensor, rtol=2e-3, atol=1e-5, msg=name)


def test_losses_and_metrics_equal_those_of_the_whole_batch(
    ranks: list[Found], alone: Found
) -> None:
    found, expected = ranks[0]["network steps"], alone["network steps"]
    assert [step for step, *_ in found] == [step for step, *_ in expected]
    for (_, loss, metrics), (_, other, others) in zip(found, expected, strict=True):
        assert loss == pytest.approx(other, rel=1e-2)
        assert metrics.keys() == others.keys()
    assert found[0][2] == pytest.approx(expected[0][2], rel=1e-3)


@pytest.mark.parametrize("what", ["plain", "network", "live"])
def test_both_ranks_have_equal_weights_and_statistics(what: str, ranks: list[Found]) -> None:
    assert same(ranks[0][what], ranks[1][what])


def test_an_interrupted_training_resumes_to_equal_weights(three_ranks: list[Found]) -> None:
    """Each rank restores its random state, although only the first reads the file. With three
    ranks, the last digits of a mean depend on the order in which gradients are exchanged."""
    for found in three_ranks:
        assert same(found["everything"], three_ranks[0]["everything"])
        assert same(found["resumed"], found["everything"])


def test_all_ranks_stop_when_one_diverges(ranks: list[Found]) -> None:
    assert ranks[0]["diverged"] == ranks[1]["diverged"]
    assert "not finite at step 1 of" in ranks[0]["diverged"]


MISTAKES = [
    ((3, 4), "execution.student.workers up to 3"),
    ((4, 2, 4), "execution.student.workers up to 1"),
    ((12, 2, 2, True), "a multiple of 8"),
]


@pytest.mark.parametrize(("batch", "allowed"), MISTAKES)
def test_batches_that_cannot_be_shared_are_refused(batch: tuple[Any, ...], allowed: str) -> None:
    check_slices(batch[0], 1, *batch[2:])
    with pytest.raises(UserError) as caught:
        check_slices(*batch)
    assert (caught.value.key, caught.value.value) == (("batch_size",), batch[0])
    assert caught.value.allowed == allowed


def test_jobs_say_how_many_workers_train_them() -> None:
    job = network_job(batch_size=2)
    assert job.workers(2) == 2
    with pytest.raises(UserError) as caught:
        job.workers(3)
    assert (caught.value.key, caught.value.value) == (("student", "training", "batch_size"), 2)
    few = network_job(samples=30, mixing={"mixup": 0.4})
    assert few.workers(4) == 4  # a step has 24 of the 30 samples
    assert meta_job().workers(50) == 1


@pytest.mark.parametrize("name", ["cifar_resnet8", "test_efficientnet.r160_in1k"])
def test_torchs_batch_norms_stand_in_for_a_while(name: str) -> None:
    """They share their tensors with the network's own, and keep the activation of timm's. (They
    compute on GPUs only.)"""
    module = TrainModule(build_classifier(name, 10, None, 32))
    own, before = list(module.modules()), dict(module.named_modules())
    tensors = {key: tensor.data_ptr() for key, tensor in module.state_dict().items()}
    with with_sync_norms(module) as wrapped:
        assert wrapped is module
        norms = [m for m in module.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
        assert len(norms) == sum(isinstance(m, BATCH_NORMS) for m in own) > 0
        found = {key: tensor.data_ptr() for key, tensor in module.state_dict().items()}
        assert found == tensors
        assert list(found) == list(tensors)
        assert any(hasattr(norm, "act") for norm in norms) == name.startswith("test_")
    assert dict(module.named_modules()) == before


def test_metrics_from_the_cpu_are_averaged_with_those_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`meta` stands for a GPU. A step's metrics are sent in one tensor with its loss."""
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", sent.append)
    loss, metrics = torch.zeros((), device="meta"), {"weight": torch.tensor(0.5)}
    means = Ranks(0, 2).means(loss, metrics)
    assert [(one.device.type, len(one)) for one in sent] == [("meta", 2)]
    assert {value.device.type for value in (means[0], *means[1].values())} == {"meta"}


def test_slices_partition_the_batch() -> None:
    for count in (1, 2, 7, 32):
        for size in (1, 2, 3, 5):
            parts = [list(range(count))[Ranks(rank, size).own(count)] for rank in range(size)]
            assert [place for part in parts for place in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
