"""Put the same sources before cosup, crowd-kit and cleanlab's CROWDLAB.

    pip install '.[bench]'
    python tests/benchmarks/fusion_sets.py SETS
    python tests/benchmarks/bench_fusion.py SETS [--seeds 0 1 2] [--results FILE] [--markdown FILE]

Per set and method: the share of right labels on student_train, the test accuracy of a student
trained on them (a linear head on frozen features, plain cross-entropy, the same for all), and the
CPU seconds of the aggregation without the student. Means over the seeds with 95 % intervals
(Student's t). Samples that no source answers count as wrong.

`annotators`: three simulated annotators alone; `systematic`: annotators whose errors are not
independent; `all`: annotators and teachers. Peers know only labels, so there the teachers, routed
by cosup's gate, are one more annotator; on the sets of weak models, which have no annotators, each
model is one.

CROWDLAB and `fused` have the same student as a witness: cross-fitted in five folds, trained in the
first round on the majority vote (CROWDLAB) or on the posterior without a student (fused), then
renewed for two more rounds. Nothing is chosen by the test split; every method has its defaults.
Results are kept in FILE (JSON lines), and a second call adds those that it lacks.
"""

import argparse
import json
import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from cosup.assignment.base import Assigner
from cosup.assignment.baselines import Mean
from cosup.assignment.dawid_skene import DawidSkene
from cosup.assignment.fused import Fused
from cosup.assignment.gate import Gate
from cosup.config.student import StudentSection
from cosup.evidence import Evidence, Scopes
from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.models.fit import fit_heads, predict_heads
from cosup.models.head_fit import HeadFit
from cosup.models.heads import HeadBank
from cosup.probabilities import ProbTable

STUDENT = StudentSection.model_validate(
    {
        "backbone": {"name": "tf_efficientnet_lite0", "weights": None},
        "training": {"steps": 600, "batch_size": 128, "lr": 0.001, "standardize": True},
    }
)
FOLDS, ROUNDS = 5, 3
PATIENCE = 60
"""CPU seconds after which an aggregation is given up."""
SOURCES = ("annotators", "systematic", "all")


@dataclass(frozen=True)
class Sources:
    """What an aggregation may read of N samples.

    soft: [N, T, C] annotations of teachers (T may be 0). votes: [N, J] answers, -1 abstains.
    features: [N, D]. provenance: of the teachers, with membership [M, T], or None. scopes: of the
    teachers, then of the annotators.
    """

    soft: Tensor
    votes: np.ndarray[Any, Any]
    features: Tensor
    provenance: tuple[Tensor, Tensor] | None
    scopes: Scopes

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return self.scopes.classes.shape[1]

    def evidence(self, student: Tensor | None) -> Evidence:
        """Return all sources as annotations [N, T + J, C]; without a student, the mean vote."""
        given = torch.from_numpy(self.votes)
        hard = torch.nn.functional.one_hot(given.clamp_min(0), self.classes).float()
        both = torch.cat([self.soft, hard * (given >= 0)[..., None]], 1)
        probs = both.mean(1) if student is None else student
        return Evidence(probs, both, self.features, has_student=student is not None)

    def known(self) -> tuple[Tensor, Tensor] | None:
        """Return the provenance with membership [M, T + J]: annotators are trained on nothing."""
        if self.provenance is None:
            return None
        features, membership = self.provenance
        others = torch.zeros(len(membership), self.votes.shape[1])
        return features, torch.cat([membership.float(), others], 1)

    def routed(self) -> np.ndarray[Any, Any]:
        """Return the teachers' labels [N], routed by the gate."""
        count = self.soft.shape[1]
        scopes = self.scopes.take(range(count))
        evidence = Evidence(self.soft.mean(1), self.soft, self.features)
        gate = Gate(prior="provenance")
        gate.fit([evidence], scopes, provenance=self.provenance)
        return gate.assign(evidence, scopes).labels.numpy()

    def hard(self) -> np.ndarray[Any, Any]:
        """Return what peers read: the votes [N, J] and the routed team, or each weak model."""
        if not self.soft.shape[1]:
            return self.votes
        if not self.votes.shape[1]:
            return self.soft.argmax(2).numpy()
        return np.concatenate([self.votes, self.routed()[:, None]], 1)


@dataclass(frozen=True)
class Task:
    """A set, as read from its file."""

    arrays: dict[str, np.ndarray[Any, Any]]

    def sources(self, kind: str) -> Sources | None:
        """Return the sources of `annotators`, `systematic` or `all`; None if there are none."""
        found = self.arrays
        count, classes = len(found["truth"]), len(found["classes"])
        alone = "generalist" not in found
        if alone and kind != "all":
            return None
        soft = torch.from_numpy(found["soft"]) if kind == "all" else torch.zeros(count, 0, classes)
        votes = found["annotators" if kind == "all" else kind]
        votes = np.zeros((count, 0), np.int64) if alone else votes
        return Sources(
            soft,
            votes,
            torch.from_numpy(found["features"]).float(),
            self._provenance() if kind == "all" and not alone else None,
            self._scopes(soft.shape[1], votes.shape[1]),
        )

    def _provenance(self) -> tuple[Tensor, Tensor]:
        found = self.arrays
        return (
            torch.from_numpy(found["provenance_features"]).float(),
            torch.from_numpy(found["provenance_membership"]).float(),
        )

    def _scopes(self, teachers: int, annotators: int) -> Scopes:
        found = self.arrays
        parts = [
            np.concatenate([found[f"scope_{kind}"][:teachers], np.ones((annotators, size), bool)])
            for kind, size in (
                ("classes", len(found["classes"])),
                ("domains", len(found["domain_names"])),
            )
        ]
        names = [f"source_{number}" for number in range(teachers + annotators)]
        return Scopes(tuple(names), torch.from_numpy(parts[0]), torch.from_numpy(parts[1]))


class Student:
    """The student of a set: trained on labels, cross-fitted, and tested."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        self.seed = seed
        self.features = torch.from_numpy(task.arrays["features"])
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.features), generator=generator)
        self.folds = torch.empty_like(order)
        self.folds[order] = torch.arange(len(order)) % FOLDS

    def fit(self, labels: np.ndarray[Any, Any]) -> float:
        """Return the test accuracy of a head trained on labels [N]; -1 is no label."""
        rows = torch.from_numpy((labels >= 0).nonzero()[0])
        test = torch.from_numpy(self.task.arrays["test_features"])
        answers = predict_heads(self._heads(labels, [rows]), test)[0].dense().argmax(1).numpy()
        return float((answers == self.task.arrays["test_truth"]).mean())

    def cross_fit(self, labels: np.ndarray[Any, Any]) -> Tensor:
        """Return probabilities [N, C], each by a head that was not trained on that sample."""
        rows = torch.from_numpy((labels >= 0).nonzero()[0])
        bank = self._heads(labels, [rows[self.folds[rows] != fold] for fold in range(FOLDS)])
        own = torch.empty(len(labels), len(self.task.arrays["classes"]))
        for fold in range(FOLDS):
            inside = (self.folds == fold).nonzero()[:, 0]
            own[inside] = predict_heads(bank.select(fold), self.features[inside])[0].dense()
        return own

    def _heads(self, labels: np.ndarray[Any, Any], members: list[Tensor]) -> HeadBank:
        targets = torch.from_numpy(labels.copy()).clamp_min(0)
        fit = HeadFit(
            self.features,
            ProbTable.one_hot(targets, len(self.task.arrays["classes"])),
            members,
            STUDENT.head,
            STUDENT.training,
            Objective(CrossEntropy()),
            self.seed,
            steps=STUDENT.training.steps,
        )
        return fit_heads(fit)


Aggregation = Callable[[Sources, Tensor | None], "np.ndarray[Any, Any]"]
"""Labels [N] (-1: none) from sources and the student's cross-fitted probabilities, if any."""


def by_assigner(build: Callable[[], Assigner]) -> Aggregation:
    """Return an aggregation by one of cosup's assigners."""

    def aggregate(sources: Sources, student: Tensor | None) -> np.ndarray[Any, Any]:
        evidence, assigner = sources.evidence(student), build()
        assigner.fit([evidence], sources.scopes, provenance=sources.known())
        return assigner.assign(evidence, sources.scopes).labels.numpy()

    return aggregate


def routed_team(sources: Sources, student: Tensor | None) -> np.ndarray[Any, Any]:
    """Return the labels of the teachers, routed by cosup's gate."""
    if sources.provenance is None:
        raise NotApplicable
    return sources.routed()


def from_crowd_kit(name: str) -> Aggregation:
    """Return an aggregation of crowd-kit."""

    def aggregate(sources: Sources, student: Tensor | None) -> np.ndarray[Any, Any]:
        from crowdkit import aggregation  # an extra package

        votes = sources.hard()
        rows, columns = np.nonzero(votes >= 0)
        table = pd.DataFrame({"task": rows, "worker": columns, "label": votes[rows, columns]})
        found = getattr(aggregation, name)().fit_predict(table)
        return found.reindex(range(len(votes)), fill_value=-1).to_numpy(np.int64)

    return aggregate


def crowdlab(sources: Sources, student: Tensor | None) -> np.ndarray[Any, Any]:
    """Return CROWDLAB's consensus labels; the majority vote while there is no student."""
    from cleanlab.multiannotator import (  # an extra package
        get_label_quality_multiannotator,
        get_majority_vote_label,
    )

    votes = sources.hard()
    spoken = (votes >= 0).any(1)
    table = pd.DataFrame(votes[spoken]).astype(float).replace(-1, np.nan)
    if student is None:
        consensus = get_majority_vote_label(table, verbose=False)
    else:
        found = get_label_quality_multiannotator(table, student[spoken].numpy(), verbose=False)
        consensus = found["label_quality"]["consensus_label"].to_numpy()
    labels = np.full(len(votes), -1, np.int64)
    labels[spoken] = consensus
    return labels


class NotApplicable(Exception):
    """The method cannot use these sources."""


@dataclass(frozen=True)
class Method:
    """An aggregation, and whether it reads the student and is repeated."""

    aggregate: Aggregation
    rounds: int = 1
    peer: bool = False


METHODS = {
    "crowd-kit MajorityVote": Method(from_crowd_kit("MajorityVote"), peer=True),
    "crowd-kit DawidSkene": Method(from_crowd_kit("DawidSkene"), peer=True),
    "crowd-kit OneCoinDawidSkene": Method(from_crowd_kit("OneCoinDawidSkene"), peer=True),
    "crowd-kit MACE": Method(from_crowd_kit("MACE"), peer=True),
    "crowd-kit GLAD": Method(from_crowd_kit("GLAD"), peer=True),
    "cleanlab CROWDLAB": Method(crowdlab, rounds=ROUNDS, peer=True),
    "cosup gate (teachers alone)": Method(routed_team),
    "cosup mean": Method(by_assigner(Mean)),
    "cosup dawid_skene": Method(by_assigner(DawidSkene)),
    "cosup fused": Method(by_assigner(Fused), rounds=ROUNDS),
}
OURS, BEST, TRUE = "cosup fused", "best single source", "true labels"


@dataclass(frozen=True)
class Result:
    """Shares in [0, 1] of right labels and of the student, and seconds of the aggregation."""

    labels: float
    student: float
    seconds: float


def measure(method: Method, sources: Sources, student: Student) -> Result | None:
    """Aggregate and train; None if it does not apply or takes too long."""
    probs, seconds = None, 0.0
    labels = np.zeros(0, np.int64)
    for number in range(method.rounds):
        if number:
            probs = student.cross_fit(labels)
        started = time.process_time()
        try:
            with at_most(PATIENCE):
                labels = method.aggregate(sources, probs)
        except (NotApplicable, TimeoutError):
            return None
        seconds += time.process_time() - started
    return result_of(labels, student, seconds)


def result_of(labels: np.ndarray[Any, Any], student: Student, seconds: float = 0.0) -> Result:
    """Return how many labels are right, and the student that is trained on them."""
    right = float((labels == student.task.arrays["truth"]).mean())
    return Result(right, student.fit(labels), seconds)


def best_source(sources: Sources, student: Student) -> Result:
    """Return the source that is right most often, as the truth tells."""
    truth = student.task.arrays["truth"]
    columns = [*sources.votes.T, *sources.soft.argmax(2).numpy().T]
    if sources.provenance is not None:
        columns.append(sources.routed())
    best = max(columns, key=lambda column: float((column == truth).mean()))
    return result_of(best, student)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` after as many seconds of CPU time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


Results = dict[tuple[str, str, str], dict[int, Result]]
"""By set, kind of sources and method: a result per seed."""


class Book:
    """Results, kept in a file of JSON lines if one is given; None is a method without a result."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[tuple[str, int, str, str], Result | None] = {}
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        for name, seed, kind, method, result in map(json.loads, lines):
            key = (name, seed, kind, method)
            self.found[key] = None if result is None else Result(**result)

    def add(self, key: tuple[str, int, str, str], compute: Callable[[], Result | None]) -> None:
        """Compute a result that is not there yet, print it and keep it."""
        if key in self.found:
            return
        result = self.found[key] = compute()
        print(*key, result, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps([*key, None if result is None else asdict(result)]) + "\n")

    def results(self) -> Results:
        """Return all results."""
        chosen: Results = {}
        for (name, seed, kind, method), result in sorted(self.found.items(), key=lambda i: i[0]):
            if result is not None:
                chosen.setdefault((name, kind, method), {})[seed] = result
        return chosen


def run(book: Book, folder: Path, cases: Iterable[tuple[str, int, str]], names: Set[str]) -> None:
    """Measure methods on sets."""
    for name, seed, kind in cases:
        with np.load(folder / f"{name}-{seed}.npz") as file:
            student = Student(Task(dict(file)), seed)
        sources = student.task.sources(kind)
        if sources is None:
            continue
        references = {
            TRUE: partial(result_of, student.task.arrays["truth"], student),
            BEST: partial(best_source, sources, student),
        }
        methods = {key: partial(measure, m, sources, student) for key, m in METHODS.items()}
        for method, compute in {**references, **methods}.items():
            if method in names:
                book.add((name, seed, kind, method), compute)


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean, by Student's t; 0 for one value."""
    if len(values) < 2:
        return 0.0
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(stats.t.ppf(0.975, len(values) - 1)) * spread


def markdown(results: Results) -> str:
    """Return a table per kind of sources: labels right / student, in percent, and seconds."""
    lines: list[str] = []
    for kind in SOURCES:
        names = list(dict.fromkeys(name for name, of, _ in results if of == kind))
        if not names:
            continue
        lines += ["", f"**{kind}**", "", f"| labels / student, % | {' | '.join(names)} | seconds |"]
        lines.append("| --- |" + " --- |" * (len(names) + 1))
        for method in (*METHODS, BEST, TRUE):
            rows = [list(results.get((name, kind, method), {}).values()) for name in names]
            if any(rows):
                cells = [_cell(row) for row in rows]
                lines.append(f"| {method} | {' | '.join(cells)} | {_seconds(rows)} |")
        gains = [_gain(results, name, kind) for name in names]
        lines.append(f"| fused, minus the best peer | {' | '.join(gains)} | |")
    return "\n".join(lines[1:]) + "\n"


def _cell(row: Sequence[Result]) -> str:
    if not row:
        return "-"
    return " / ".join(
        f"{100 * np.mean(values):.1f} ±{100 * half_width(values):.1f}"
        for values in ([r.labels for r in row], [r.student for r in row])
    )


def _seconds(rows: Sequence[Sequence[Result]]) -> str:
    taken = [result.seconds for row in rows for result in row]
    return f"{np.mean(taken):.2g}" if any(taken) else ""


def _gain(results: Results, name: str, kind: str) -> str:
    """Return the difference in points to the best peer, chosen for labels and for the student by
    its mean over the seeds, with the interval of the paired difference."""
    ours = results.get((name, kind, OURS), {})
    peers = [results.get((name, kind, key), {}) for key, method in METHODS.items() if method.peer]
    peers = [peer for peer in peers if peer.keys() >= ours.keys()]
    if not ours or not peers:
        return "-"
    parts = []
    for field in ("labels", "student"):
        own, *others = [[getattr(row[seed], field) for seed in ours] for row in (ours, *peers)]
        best = max(others, key=lambda values: float(np.mean(values)))
        gap = [a - b for a, b in zip(own, best, strict=True)]
        parts.append(f"{100 * np.mean(gap):+.1f} ±{100 * half_width(gap):.1f}")
    return " / ".join(parts)


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--methods", nargs="+", default=[*METHODS, BEST, TRUE])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = asked.folder.glob("*-*.npz")
    names = asked.sets or sorted({path.name.rsplit("-", 1)[0] for path in found})
    book = Book(asked.results)
    cases = [(n, seed, kind) for seed in asked.seeds for n in names for kind in asked.sources]
    run(book, asked.folder, cases, set(asked.methods))
    table = markdown(book.results())
    print(table)
    if asked.markdown is not None:
        asked.markdown.write_text(table)


if __name__ == "__main__":
    main()
