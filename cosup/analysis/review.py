"""Which images a person should look at, and what the answers tell of every source.

Some images are drawn at random: they measure. The others are *contested*: drawn with the more
chance, the less sure it is which sources are right about them. Both are probability samples, so
that together they estimate, without bias from the choice, how often each source is right.
METHODS.md section 12.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cosup.analysis.arrays import Bools, Codes, Doubles, Values
from cosup.analysis.pool import Pool
from cosup.analysis.records import Run
from cosup.data.answers import RANDOM, Applied
from cosup.metrics.intervals import Z_975
from cosup.words import percent, plural, points, span

__all__ = [
    "CONTESTED",
    "RANDOM",
    "Estimate",
    "choose",
    "contest",
    "estimates",
    "inclusion",
    "review_sentences",
]

CONTESTED = "contested"
"""The reason of images that are not drawn at random."""
SHARE = 0.5
"""Share of the images that are drawn at random."""
DOUBT = 0.01
"""Least variance of whether a source is right, so that no image is without a chance."""


def contest(pool: Pool) -> Doubles:
    """Return how contested each image is: [N], in sum 1; 0 where no source answers.

    It is the standard deviation of whether an answer is right, sqrt(q (1 - q) + 0.01) with q its
    estimated probability, added up over the sources. Each source has an equal part in the sum over
    all images, and then so has each class of the run's labels.
    """
    spread = np.sqrt(pool.likely * (1 - pool.likely) + DOUBT) * (pool.said >= 0)
    score: Doubles = (spread / np.maximum(spread.sum(0), 1e-12)).sum(1)
    _, kind = np.unique(pool.label, return_inverse=True)
    score = score / np.maximum(np.bincount(kind, weights=score), 1e-12)[kind]
    found: Doubles = score / max(score.sum(), 1e-12)
    return found


def choose(pool: Pool, reasons: Sequence[str], number: int) -> list[str]:
    """Return the reasons [N] with up to `number` more images chosen, half of them at random.

    reasons: [N], "" for an image that was not chosen. The images drawn at random are those with
    the smallest random numbers, the contested ones those with the smallest random number over
    score (sequential Poisson sampling, Ohlsson 1998), so that both continue earlier draws. An image
    that was contested and is now drawn at random too becomes random, and counts as none. No
    contested image is of a group with a random one.
    """
    found = np.array(reasons, dtype=object)
    least = round(SHARE * number)
    for place in np.argsort(pool.numbers[:, 0], kind="stable"):
        if least <= 0:
            break
        least -= found[place] == ""
        found[place] = RANDOM if found[place] in ("", CONTESTED) else found[place]
    taken = set(pool.groups[found == RANDOM].tolist())
    left = number - int((found != "").sum() - sum(bool(one) for one in reasons))
    order = _contested_order(pool)
    for place in np.argsort(order, kind="stable"):
        if left <= 0 or not np.isfinite(order[place]):
            break
        if found[place] == "" and int(pool.groups[place]) not in taken:
            found[place] = CONTESTED
            left -= 1
    return [str(reason) for reason in found]


def _contested_order(pool: Pool) -> Doubles:
    score = contest(pool)
    numbers = pool.numbers[:, 1]
    order: Doubles = np.divide(numbers, score, out=np.full(len(pool), np.inf), where=score > 0)
    return order


def inclusion(score: Doubles, number: int) -> Doubles:
    """Return the chance [N] of each image to be among `number` drawn by score: min(1, t score).

    t is such that the chances sum to `number`, or to all images with a score.
    """
    if number >= int((score > 0).sum()):
        return (score > 0).astype(np.float64)
    order = np.sort(score)[::-1]
    rest = score.sum() - np.concatenate([[0.0], np.cumsum(order)[:-1]])
    sure = np.arange(number)  # images with chance 1 are those with the largest scores
    factors = (number - sure) / np.maximum(rest[:number], 1e-300)
    first = int(np.argmax(factors * order[:number] <= 1)) if number else 0
    factor = factors[first] if number else 0.0
    found: Doubles = np.minimum(1.0, factor * score)
    return found


@dataclass(frozen=True)
class Estimate:
    """How often a source is right where it answers, over all images of the pool.

    samples: reviewed images that it answers. share, low, high: the estimate and its 95 % interval;
    None without samples. lead, lead_low, lead_high: by how much the last source of the pool (the
    student) is right more often on the images that this one answers.
    """

    name: str
    samples: int
    share: float | None = None
    low: float | None = None
    high: float | None = None
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None


def estimates(pool: Pool, reasons: Sequence[str], truth: Codes) -> list[Estimate]:
    """Estimate every source from the true classes of reviewed images.

    reasons: [N] as `choose` returned them. truth: [N], -1 where there is no answer; images without
    one are taken to be like those with one.
    """
    weights = _weights(pool, reasons)
    known = (truth >= 0) & (weights > 0)
    right = (pool.said == truth[:, None]).astype(np.float64)
    found = []
    for place, name in enumerate(pool.names):
        answers = pool.said[:, place] >= 0
        rows = answers & known
        if not rows.any():
            found.append(Estimate(name, 0))
            continue
        share, low, high = regression(
            right[rows, place],
            pool.likely[rows, place],
            float(pool.likely[answers, place].mean()),
            weights[rows],
        )
        one = Estimate(name, int(rows.sum()), share, max(0.0, low), min(1.0, high))
        both = answers & (pool.said[:, -1] >= 0)
        if place < len(pool.names) - 1 and (both & known).any():
            one = _with_lead(one, pool, right, place, both, known, weights)
        found.append(one)
    return found


def _with_lead(
    one: Estimate,
    pool: Pool,
    right: Doubles,
    place: int,
    both: Bools,
    known: Bools,
    weights: Doubles,
) -> Estimate:
    """Add the lead of the last source on the images that both answer."""
    rows, expected = both & known, pool.likely[:, -1] - pool.likely[:, place]
    lead, low, high = regression(
        right[rows, -1] - right[rows, place],
        expected[rows],
        float(expected[both].mean()),
        weights[rows],
    )
    return replace(one, lead=lead, lead_low=max(-1.0, low), lead_high=min(1.0, high))


def _weights(pool: Pool, reasons: Sequence[str]) -> Doubles:
    """Return one over the chance of each chosen image to be chosen, for either reason; else 0."""
    chosen = np.array(reasons, dtype=object)
    share = (chosen == RANDOM).sum() / max(1, len(pool))
    order = _contested_order(pool)
    contested = chosen == CONTESTED
    reached = int((order <= order[contested].max()).sum()) if contested.any() else 0
    chance = 1 - (1 - share) * (1 - inclusion(contest(pool), reached))
    found: Doubles = np.where(chosen != "", 1 / np.maximum(chance, 1e-12), 0.0)
    return found


def regression(
    values: Doubles, expected: Doubles, mean: float, weights: Values
) -> tuple[float, float, float]:
    """Return the regression estimate of the mean of all values, with its 95 % interval.

    values [n], such as 1 for right and 0 for wrong, and expected [n], what they were estimated to
    be, of a sample drawn with chances 1 / weights. mean: of what is expected, over all images. The
    estimate is the weighted mean of the values plus b times what the sample lacks in expected ones;
    b, in 0 .. 1, is fitted to the sample. The interval is normal, with the variance of the
    residuals and that of one image more that is wrong, so that a sample without an error has one.
    """
    total = weights.sum()
    own, said = weights @ values / total, weights @ expected / total
    squares = weights**2
    spread = squares @ (expected - said) ** 2
    joint = squares @ ((expected - said) * (values - own))
    slope = min(1.0, max(0.0, joint / spread)) if spread > 1e-12 else 0.0
    share = own + slope * (mean - said)
    rest = values - own - slope * (expected - said)
    size = total**2 / squares.sum()
    count = len(values)
    variance = squares @ rest**2 / total**2 * count / max(1, count - 2) + size**-2.0
    half = Z_975 * float(np.sqrt(variance))
    return float(share), float(share - half), float(share + half)


def review_sentences(run: Run) -> Iterator[str]:
    """Yield a sentence on the images of a run that a person reviewed.

    Either how the run used the answers, or what they tell of it.
    """
    applied, estimated = Applied(**run.prepared.get("review", {})), run.files.review.estimates
    if applied.total:
        yield f"The run uses {applied.sentence}."
    elif estimated.exists():
        yield from _told(estimated.read())


def _told(found: dict[str, Any]) -> Iterator[str]:
    """Yield what the answers tell of the student and of the best source."""
    *sources, student = found["sources"]
    if student["share"] is None:
        return
    text = (
        f"By {plural(found['answers'], 'reviewed image')} the student is right on "
        f"{percent(student['share'])} of student_train "
        f"(95 % CI {span(student['low'], student['high'])} %)"
    )
    known = [one for one in sources if one["lead"] is not None]
    if known:
        best = max(known, key=lambda one: float(one["share"]))
        lead = points(best["lead"], signed=True)
        text += (
            f"; that is {lead} compared with the best source, {best['name']} "
            f"(95 % CI {span(best['lead_low'], best['lead_high'])})"
        )
    yield f"{text}."
