"""Runs over seeds are paired seed with seed; their intervals equal SciPy and plain formulas."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.comparable_runs import RunAnswers, make_run, make_seeds, random_answers
from numpy.typing import NDArray
from scipy import stats

from cosup.analysis.comparable import Entry, entries_in, labels, pair_seeds
from cosup.analysis.comparison import compare
from cosup.errors import UserError
from cosup.layout import MARKER


def own_samples(answers: RunAnswers, seed: int) -> RunAnswers:
    """Return the answers on test samples of another name for each seed."""
    return replace(answers, ids=[f"{seed}-{name}" for name in answers.ids])


def right(answers: RunAnswers) -> NDArray[np.float64]:
    return (answers.student == answers.truth).astype(np.float64)


def answers_of(first: int, skill: float, seeds: int = 3) -> dict[int, RunAnswers]:
    return {seed: random_answers(first + seed, skill + 0.02 * seed) for seed in range(seeds)}


def pair_of(entries: list[Entry]) -> dict[str, Any]:
    (pair,) = compare(entries)["pairs"].to_dict("records")
    return pair


def test_seeds_with_test_samples_of_their_own_have_the_paired_t_interval(tmp_path: Path) -> None:
    one = {seed: own_samples(found, seed) for seed, found in answers_of(1, 0.6).items()}
    two = {seed: own_samples(found, seed) for seed, found in answers_of(11, 0.8).items()}
    entries = entries_in([make_seeds(tmp_path / "a", one), make_seeds(tmp_path / "b", two)])
    pair = pair_of(entries)
    first, second = ([right(found).mean() for found in side.values()] for side in (one, two))
    oracle = stats.ttest_rel(second, first)
    interval = oracle.confidence_interval(0.95)
    assert (pair["run"], pair["baseline"]) == ("b", "a")
    assert pair["difference"] == pytest.approx(np.mean(second) - np.mean(first))
    assert pair["deviation"] == pytest.approx(np.std(np.subtract(second, first), ddof=1))
    assert [pair["low"], pair["high"]] == pytest.approx([interval.low, interval.high])
    assert pair["p_value"] == pytest.approx(oracle.pvalue)
    assert pair["better_on"] == 3
    runs = compare(entries)["runs"].set_index("run")
    assert runs.loc["a", "student"] == pytest.approx(np.mean(first))
    assert runs.loc["a", "deviation"] == pytest.approx(np.std(first, ddof=1))


def test_seeds_with_the_same_test_samples_add_the_chance_of_these(tmp_path: Path) -> None:
    """The bootstrap's part equals the variance of a mean over groups, by its formula."""
    one, two = answers_of(1, 0.6), answers_of(11, 0.8)
    order = np.random.default_rng(3).permutation(240)  # of one seed only
    two[2] = two[2].select(order)
    one[2] = one[2].select(order)
    entries = entries_in([make_seeds(tmp_path / "a", one), make_seeds(tmp_path / "b", two)])
    pair = pair_of(entries)
    back = np.argsort(order)
    leads = np.array([right(two[seed]) - right(one[seed]) for seed in range(3)])
    leads[2] = leads[2][back]
    by_seed = leads.mean(1)
    t_half = stats.t.ppf(0.975, 2) * by_seed.std(ddof=1) / np.sqrt(3)
    by_group = pd.Series(leads.mean(0)).groupby(one[0].group).mean().to_numpy()  # of equal size
    z_half = stats.norm.ppf(0.975) * by_group.std() / np.sqrt(len(by_group))
    half = np.hypot(t_half, z_half)
    assert z_half > 0.3 * t_half
    assert pair["high"] - pair["low"] == pytest.approx(2 * half, rel=0.03)
    assert pair["difference"] == pytest.approx(by_seed.mean())
    assert (pair["p_value"] < 0.05) == (pair["low"] > 0 or pair["high"] < 0)
    assert pair["both_right"] + pair["run_only"] == sum(
        right(found).sum() for found in two.values()
    )


def test_pgr_over_seeds_is_the_mean_of_that_of_each(tmp_path: Path) -> None:
    one, two = answers_of(1, 0.6), answers_of(11, 0.8)
    entries = entries_in([make_seeds(tmp_path / "a", one), make_seeds(tmp_path / "b", two)])
    tables = compare(entries)
    seeds = tables["seeds"].pivot(index="seed", columns="run", values="pgr")
    assert tables["pairs"]["pgr_difference"].item() == pytest.approx(
        (seeds["b"] - seeds["a"]).mean()
    )
    runs = tables["runs"].set_index("run")
    assert runs["pgr"].tolist() == pytest.approx(seeds.mean().tolist())
    assert runs["pgr_deviation"].tolist() == pytest.approx(seeds.std().tolist())
    assert (runs["pgr_low"] < runs["pgr"]).all()


def test_tables_by_sample_and_class_hold_all_seeds(tmp_path: Path) -> None:
    one, two = answers_of(1, 0.6), answers_of(11, 0.8)
    entries = entries_in([make_seeds(tmp_path / "a", one), make_seeds(tmp_path / "b", two)])
    tables = compare(entries)
    flips = {seed: int((right(one[seed]) != right(two[seed])).sum()) for seed in one}
    assert tables["flipped"].groupby("seed").size().to_dict() == flips
    classes = tables["classes"].set_index("class")
    assert classes["samples"].sum() == 240
    for number, name in enumerate(one[0].classes):
        values = [right(found)[found.truth == number].mean() for found in two.values()]
        assert classes.loc[name, "b"] == pytest.approx(np.mean(values))


def test_seeds_that_only_some_have_are_left_out_and_named(tmp_path: Path) -> None:
    one, two = answers_of(1, 0.6, seeds=4), answers_of(11, 0.8)
    more = entries_in([make_seeds(tmp_path / "a", one), make_seeds(tmp_path / "b", two)])
    del one[3]
    same = entries_in([make_seeds(tmp_path / "fewer" / "a", one), tmp_path / "b"])
    paired = pair_seeds(more)
    assert (paired.seeds, dict(paired.left_out)) == ([0, 1, 2], {"a": [3]})
    assert pair_of(more) == pair_of(same)


def test_a_single_run_is_paired_with_its_seed(tmp_path: Path) -> None:
    alone = replace(random_answers(21, 0.7), config={"run.seed": 1})
    entries = entries_in(
        [make_run(tmp_path / "one", alone), make_seeds(tmp_path / "b", answers_of(1, 0.6))]
    )
    paired = pair_seeds(entries)
    assert (paired.seeds, dict(paired.left_out)) == ([1], {"b": [0, 2]})
    assert paired.runs[0][1].path == tmp_path / "b" / "seed-1"
    assert np.isnan(pair_of(entries)["deviation"])


def test_runs_over_losses_are_entries_of_their_own(tmp_path: Path) -> None:
    for loss in ("kl", "mse"):
        make_seeds(tmp_path / "both" / loss, answers_of(len(loss), 0.6))
    (tmp_path / "both" / MARKER).write_text('{"format": 1, "config_hash": ""}')
    tree = {"run": {"seeds": [0, 1, 2]}, "rounds": {"losses": [{"name": "kl"}, {"name": "mse"}]}}
    (tmp_path / "both" / "config.yaml").write_text(yaml.safe_dump(tree))
    other = make_seeds(tmp_path / "other", answers_of(9, 0.6))
    assert labels(entries_in([tmp_path / "both"])) == ["kl", "mse"]
    assert labels(entries_in([other, tmp_path / "both"])) == ["other", "kl", "mse"]
    assert len(compare(entries_in([other, tmp_path / "both"]))["pairs"]) == 3


def test_a_folder_of_runs_that_differ_in_their_seed_alone_is_one_entry(tmp_path: Path) -> None:
    for name, config in (("a", {}), ("b", {"rounds.repeat": 2}), ("c", {})):
        for seed, one in answers_of(len(config), 0.6).items():
            own = {**config, "run.seed": seed}
            if name == "c" and seed:
                own["data.limit"] = seed
            make_run(tmp_path / name / f"s{seed}", replace(one, config=own))
    entries = entries_in([tmp_path / "a", tmp_path / "b"])
    assert [len(entry.runs) for entry in entries] == [3, 3]
    assert [len(entry.runs) for entry in entries_in([tmp_path / "a", tmp_path / "c"])] == [
        3,
        1,
        1,
        1,
    ]
    assert [len(entry.runs) for entry in entries_in([tmp_path / "a"])] == [1, 1, 1]


def refused(*places: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        compare(entries_in(places))
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    answers = answers_of(1, 0.6)
    a = make_seeds(tmp_path / "a", answers)
    late = make_seeds(tmp_path / "late", {seed + 7: one for seed, one in answers.items()})
    error = refused(a, late)
    assert "no seed in common" in error.problem
    assert all(text in str(error) for text in ("0, 1 and 2", "7, 8 and 9"))
    assert "given twice" in refused(a, a / "seed-1").problem
    assert "1 run over seeds" in refused(a).problem
    cut = make_seeds(tmp_path / "cut", answers)
    shutil.rmtree(cut / "seed-1")
    assert ("no seed 1" in refused(a, cut).problem, refused(a, cut).where) == (True, str(cut))
    make_run(cut / "seed-1", answers[1], finished=False)
    assert refused(a, cut).where == str(cut / "seed-1")
    moved = {**answers, 1: own_samples(answers[1], 5)}
    error = refused(a, make_seeds(tmp_path / "moved", moved))
    assert "test samples differ" in error.problem
    assert "moved (seed 1)" in str(error.where)
