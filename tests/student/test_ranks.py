"""Training in two processes gives the results of one process."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks
from helpers.student_jobs import (
    head_job,
    meta_job,
    network_job,
    same,
)

from cosup.errors import UserError
from cosup.models.fit import predict_heads
from cosup.models.heads import head_bank
from cosup.models.ranks import ALONE, Ranks, check_slices

Found = dict[str, Any]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, forks: list[str]) -> tuple[Found, Found]:
    """Return the results of both ranks."""
    folder, here = tmp_path_factory.mktemp("ranks"), Path(two_ranks.__file__)
    path = os.pathsep.join([str(here.parents[2]), str(here.parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    processes = [
        subprocess.Popen(
            [*forks, str(here), str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    return first, second


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the results of one process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return two_ranks.results(ALONE, tmp_path_factory.mktemp("alone"))
    finally:
        torch.set_num_threads(before)


STEP_BY_STEP = ["head", "head unweighted", "plain", "plain in parts", "with batch norm"]


@pytest.mark.parametrize("what", STEP_BY_STEP)
def test_gradients_equal_those_of_the_whole_batch(
    what: str, ranks: tuple[Found, Found], alone: Found
) -> None:
    """With slices of unequal size and weight, each step equals that of one process up to rounding;
    the network's batch norms use the slices of both ranks."""
    for name, tensor in alone[what].items():
        torch.testing.assert_close(ranks[0][what][name], tensor, rtol=2e-3, atol=1e-5, msg=name)


def test_losses_and_metrics_equal_those_of_the_whole_batch(
    ranks: tuple[Found, Found], alone: Found
) -> None:
    for what, close in (("head steps", 1e-3), ("network steps", 1e-2)):
        assert [step for step, *_ in ranks[0][what]] == [step for step, *_ in alone[what]]
        for (_, loss, metrics), (_, expected, others) in zip(
            ranks[0][what], alone[what], strict=True
        ):
            assert loss == pytest.approx(expected, rel=close)
            assert metrics.keys() == others.keys()
    first, expected = ranks[0]["head steps"][0], alone["head steps"][0]
    assert first[2] == pytest.approx(expected[2], rel=0.1)  # known labels are uneven in slices


ALIKE = ["head", "plain", "network", "everything", "live", "resumed"]


@pytest.mark.parametrize("what", ALIKE)
def test_both_ranks_have_equal_weights_and_statistics(
    what: str, ranks: tuple[Found, Found]
) -> None:
    assert same(ranks[0][what], ranks[1][what])


def test_an_interrupted_training_resumes_to_equal_weights(
    ranks: tuple[Found, Found], alone: Found
) -> None:
    """Each rank restores its random state, although only the first reads the file."""
    assert same(alone["resumed"], alone["everything"])
    assert same(ranks[0]["resumed"], ranks[0]["everything"])
    assert same(ranks[1]["resumed"], ranks[1]["everything"])


def test_the_first_rank_trains_the_meta_stage(ranks: tuple[Found, Found], alone: Found) -> None:
    assert same(ranks[0]["meta"], alone["meta"])


def test_all_ranks_stop_when_one_diverges(ranks: tuple[Found, Found]) -> None:
    assert ranks[0]["diverged"] == ranks[1]["diverged"]
    assert "not finite at step 1 of" in ranks[0]["diverged"]


def test_heads_agree_on_nearly_every_image(ranks: tuple[Found, Found], alone: Found) -> None:
    """For complete trainings of networks see `tests/benchmarks/bench_workers.py`."""
    features = head_job().features
    answers = [predict_heads(head_bank(f["head"]), features)[0].top()[0] for f in (alone, ranks[0])]
    assert float((answers[0] == answers[1]).float().mean()) > 0.995


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


def test_jobs_are_checked_before_they_run() -> None:
    for job in (head_job(batch_size=2), network_job(batch_size=2)):
        job.check(2)
        with pytest.raises(UserError) as caught:
            job.check(3)
        assert (caught.value.key, caught.value.value) == (("student", "training", "batch_size"), 2)
    few = network_job(samples=30, mixing={"mixup": 0.4})
    few.check(4)  # a step has 24 of the 30 samples
    meta_job().check(50)


def test_slices_partition_the_batch() -> None:
    for count in (1, 2, 7, 32):
        for size in (1, 2, 3, 5):
            parts = [list(range(count))[Ranks(rank, size).own(count)] for rank in range(size)]
            assert [place for part in parts for place in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
