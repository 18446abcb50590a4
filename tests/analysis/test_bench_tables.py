"""The tables of a bench agree with `cosup compare`, and rank by the accuracy over seeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.comparable_runs import RunAnswers, make_run, random_answers

from cosup.analysis import load_run
from cosup.analysis.arrays import Tables
from cosup.analysis.bench import BenchResult, bench_tables
from cosup.analysis.comparable import entries_in
from cosup.analysis.comparison import compare
from cosup.files import write_json
from cosup.layout import Layout

SKILL = {"plain": 0.6, "product": 0.8, "refine": 0.7}


def answers_of(data: str, method: str, seed: int) -> RunAnswers:
    """Return answers to test samples that are the same for all methods, seeds and data sets."""
    first = 100 * list(SKILL).index(method) + 10 * len(data)
    answers = random_answers(first + seed, SKILL[method] + 0.02 * seed)
    return replace(answers, config={"run.seed": seed})


def made(folder: Path, data: str, method: str, seed: int) -> BenchResult:
    path = make_run(folder / data / method / f"seed-{seed}", answers_of(data, method, seed))
    summary = Layout(path).summary.read()
    summary |= {"controls": {}, "seconds": {"total": 12.5, "rounds": 3.0}}
    write_json(Layout(path).summary.path, summary)
    return BenchResult(data, method, seed, load_run(path))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[BenchResult]]:
    folder = tmp_path_factory.mktemp("results")
    cells = [(data, method, seed) for data in ("a", "bb") for method in SKILL for seed in range(3)]
    return folder, [made(folder, *cell) for cell in cells]


def tables(results: list[BenchResult]) -> Tables:
    return bench_tables(results, ["a", "bb"], list(SKILL), "plain")


def test_differences_and_intervals_are_those_of_compare(
    results: tuple[Path, list[BenchResult]],
) -> None:
    folder, found = results
    compared = compare(entries_in([folder / "a" / method for method in SKILL]))
    table = tables(found)
    own = table["differences"].set_index(["data", "of", "against", "method"])
    pairs = compared["pairs"].set_index(["baseline", "run"])
    for method in ("product", "refine"):
        ours, theirs = own.loc["a", "student", "plain", method], pairs.loc["plain", method]
        assert ours["difference"] == pytest.approx(theirs["difference"])
        assert ours["difference_low"] == pytest.approx(theirs["low"], abs=0.004)  # other draws
        assert ours["difference_high"] == pytest.approx(theirs["high"], abs=0.004)
    runs = compared["runs"].set_index("run")
    for row in table["results"][table["results"]["data"] == "a"].to_dict("records"):
        assert row["student"] == pytest.approx(runs.loc[row["method"], "student"])
        assert row["student_low"] == pytest.approx(runs.loc[row["method"], "low"], abs=0.004)
        assert row["pgr"] == pytest.approx(runs.loc[row["method"], "pgr"])


def test_ranks_are_means_over_the_data_sets(results: tuple[Path, list[BenchResult]]) -> None:
    ranks = tables(results[1])["ranks"].set_index("method")["student_rank"]
    assert ranks.to_dict() == {"plain": 3.0, "product": 1.0, "refine": 2.0}


def test_a_method_without_a_data_set_has_no_rank(results: tuple[Path, list[BenchResult]]) -> None:
    some = [one for one in results[1] if (one.data, one.method) != ("bb", "product")]
    table = tables(some)
    ranks = table["ranks"].set_index("method")["student_rank"]
    assert np.isnan(ranks["product"])
    assert ranks[["plain", "refine"]].tolist() == [2.5, 1.0 + 0.5]
    assert len(table["results"]) == 5


def test_seeds_that_one_method_lacks_are_left_out_of_its_difference(
    results: tuple[Path, list[BenchResult]],
) -> None:
    some = [one for one in results[1] if (one.method, one.seed) != ("product", 1)]
    table = tables(some)
    row = table["results"].set_index(["data", "method"]).loc["a", "product"]
    assert row["seeds"] == 2
    own = table["differences"].set_index(["data", "of", "against", "method"])

    def accuracy(method: str, seed: int) -> float:
        answers = answers_of("a", method, seed)
        return float((answers.student == answers.truth).mean())

    gains = [accuracy("product", seed) - accuracy("plain", seed) for seed in (0, 2)]
    found = own.loc["a", "student", "plain", "product"]["difference"]
    assert found == pytest.approx(np.mean(gains))


def test_other_test_samples_have_no_difference(tmp_path: Path) -> None:
    one = made(tmp_path, "a", "plain", 0)
    other = replace(answers_of("a", "product", 0), ids=[f"x{k}.png" for k in range(240)])
    path = make_run(tmp_path / "other", other)
    summary = Layout(path).summary.read() | {"controls": {}, "seconds": {"total": 1, "rounds": 1}}
    write_json(Layout(path).summary.path, summary)
    table = tables([one, BenchResult("a", "product", 0, load_run(path))])
    assert len(table["differences"]) == 0
    assert len(table["results"]) == 2
