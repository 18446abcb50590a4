"""How much a hundred reviewed images tell of a run whose true labels are known.

    cosup run configs/digits_annotators.yaml
    python tests/benchmarks/bench_review.py outputs/digits_annotators

The reviewer is the true label. Each way of choosing and estimating is repeated with other random
numbers. Prints, in %: the root mean square error of the sources' shares of right answers (all but
the student), that of the student, the mean width of the student's 95 % interval, how often the
intervals cover the truth (the least of all sources; the student), and how often the best source is
found.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cosup.analysis import load_run
from cosup.analysis.arrays import codes
from cosup.analysis.pool import Pool, pool_of_run, random_numbers
from cosup.analysis.review import choose, estimates
from cosup.data.answers import RANDOM
from cosup.metrics import wilson

Found = NDArray[np.float64]
"""Share, low and high of every source, [S, 3]."""


def at_random(pool: Pool, number: int) -> list[str]:
    """Choose all images at random."""
    first = set(np.argsort(pool.numbers[:, 0])[:number].tolist())
    return [RANDOM if row in first else "" for row in range(len(pool))]


def half_contested(pool: Pool, number: int) -> list[str]:
    """Choose as `cosup review` does."""
    return choose(pool, [""] * len(pool), number)


def counted(pool: Pool, reasons: list[str], truth: NDArray[np.int64]) -> Found:
    """Count right answers, whatever the chances of the images."""
    rows = truth >= 0
    found = []
    for said in pool.said[rows].T:
        right, answered = int((said == truth[rows]).sum()), int((said >= 0).sum())
        found.append((right / max(1, answered), *wilson(right, answered)))
    return np.array(found)


def estimated(pool: Pool, reasons: list[str], truth: NDArray[np.int64]) -> Found:
    """Estimate as `cosup review` does."""
    found = estimates(pool, reasons, truth)
    return np.array([(one.share, one.low, one.high) for one in found], dtype=np.float64)


WAYS: dict[str, tuple[Callable[..., list[str]], Callable[..., Found]]] = {
    "at random, counted": (at_random, counted),
    "half contested, counted": (half_contested, counted),
    "at random, estimated": (at_random, estimated),
    "half contested, estimated": (half_contested, estimated),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--times", type=int, default=200)
    options = parser.parse_args()
    for path in options.runs:
        run = load_run(path)
        pool, truth = pool_of_run(run, 0), codes(run.train["true_label"], run.classes)
        answered = pool.said >= 0
        true = ((pool.said == truth[:, None]) & answered).sum(0) / answered.sum(0)
        best = int(true[:-1].argmax())
        print(f"{run.name}: {len(pool)} images, {len(pool.names) - 1} sources")
        print("way                        sources student  width  cover  cover  best")
        for name, (choice, estimate) in WAYS.items():
            found = []
            for seed in range(options.times):
                again = replace(pool, numbers=random_numbers(pool.sample_ids, seed))
                reasons = choice(again, options.number)
                reviewed = np.where(np.array(reasons) != "", truth, -1)
                found.append(estimate(again, reasons, reviewed))
            share, low, high = np.moveaxis(np.array(found), 2, 0)
            error = 100 * np.sqrt(((share - true) ** 2).mean(0))
            covered = 100 * ((low <= true) & (true <= high)).mean(0)
            print(
                f"{name:26} {error[:-1].mean():7.1f} {error[-1]:7.1f} "
                f"{100 * (high - low)[:, -1].mean():6.1f} {covered[:-1].min():6.1f} "
                f"{covered[-1]:6.1f} {100 * (share[:, :-1].argmax(1) == best).mean():5.1f}"
            )


if __name__ == "__main__":
    main()
