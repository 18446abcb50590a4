"""Comparisons of runs equal SciPy, plain loops and a plain bootstrap; others are refused."""

import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.comparable_runs import CLASSES, DOMAINS, RunAnswers, make_run, random_answers
from numpy.typing import NDArray
from scipy import stats

from cosup.analysis.comparable import Entry, entries_in, labels
from cosup.analysis.comparison import compare
from cosup.errors import RunError, UserError
from cosup.metrics import holm, paired_comparison, resampled_means
from cosup.seeds import seed_for

SEED = seed_for(0, "bootstrap")


def loaded(folder: Path, **cases: RunAnswers) -> list[Entry]:
    return entries_in([make_run(folder / name, one) for name, one in cases.items()])


def right(answers: RunAnswers) -> NDArray[np.bool_]:
    return answers.student == answers.truth


def test_pairs_equal_scipy_and_a_loop(tmp_path: Path) -> None:
    first, second = random_answers(1, 0.7), random_answers(2, 0.8)
    tables = compare(loaded(tmp_path, first=first, second=second))
    (pair,) = tables["pairs"].to_dict("records")
    counts = {"both_right": 0, "run_only": 0, "baseline_only": 0, "both_wrong": 0}
    same = 0
    for truth, one, two in zip(second.truth, second.student, first.student, strict=True):
        same += one == two
        if one == truth:
            counts["both_right" if two == truth else "run_only"] += 1
        else:
            counts["baseline_only" if two == truth else "both_wrong"] += 1
    assert (pair["run"], pair["baseline"]) == ("second", "first")
    assert {name: pair[name] for name in counts} == counts
    assert pair["agreement"] == same / len(first.truth)
    assert pair["difference"] == pytest.approx(right(second).mean() - right(first).mean())
    alone = counts["run_only"], counts["baseline_only"]
    oracle = stats.binomtest(alone[0], sum(alone), 0.5).pvalue
    assert pair["p_value"] == pytest.approx(oracle, rel=1e-9)
    assert pair["p_corrected"] == pair["p_value"]


def test_intervals_equal_a_plain_bootstrap_over_groups(tmp_path: Path) -> None:
    first, second = random_answers(1, 0.6), random_answers(2, 0.8)
    pair = compare(loaded(tmp_path, first=first, second=second))["pairs"].iloc[0]
    rng = np.random.default_rng(5)
    members = [np.flatnonzero(first.group == group) for group in np.unique(first.group)]
    differences, gaps = [], []
    assert first.ceiling is not None
    for _ in range(3000):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        floor, ceiling = (
            (part[rows] == first.truth[rows]).mean() for part in (first.floor, first.ceiling)
        )
        lead = right(second)[rows].mean() - right(first)[rows].mean()
        differences.append(lead)
        gaps.append(lead / (ceiling - floor))
    low, high = np.percentile(differences, [2.5, 97.5])
    assert [pair["low"], pair["high"]] == pytest.approx([low, high], abs=0.008)
    low, high = np.percentile(gaps, [2.5, 97.5])
    assert [pair["pgr_low"], pair["pgr_high"]] == pytest.approx([low, high], abs=0.015)
    assert pair["pgr_difference"] == pytest.approx(np.mean(gaps), abs=0.01)


def test_draws_are_shared_with_the_runs_own_intervals(tmp_path: Path) -> None:
    cases = [random_answers(1, 0.6), random_answers(2, 0.8)]
    tables = compare(loaded(tmp_path, first=cases[0], second=cases[1]))
    one, two = right(cases[1]), right(cases[0])
    known = paired_comparison(one, two, cases[0].group, seed=SEED)
    pair = tables["pairs"].iloc[0]
    assert [pair["low"], pair["high"]] == pytest.approx([known.low, known.high])
    nothing = np.zeros(len(one), bool)
    for row, (_, run) in zip(cases, tables["runs"].iterrows(), strict=True):
        alone = paired_comparison(right(row), nothing, row.group, seed=SEED)
        assert [run["low"], run["high"]] == pytest.approx([alone.low, alone.high])
        assert row.ceiling is not None
        floor, ceiling = row.floor == row.truth, row.ceiling == row.truth
        share = [part.mean() for part in (right(row), floor, ceiling)]
        assert run[["student", "floor", "ceiling"]].tolist() == pytest.approx(share)
        pgr = (share[0] - share[1]) / (share[2] - share[1])
        summed_up = run[["pgr", "pgr_low", "pgr_high"]].tolist()
        assert summed_up == pytest.approx([pgr, pgr - 0.1, pgr + 0.1])
        assert (run["seconds"], run["peak_rss_mb"]) == (12.5, 512.0)


def test_resampled_means_are_exact_for_one_group() -> None:
    columns = np.array([[1, 0], [0, 0], [1, 1], [0, 1]])
    found = resampled_means(columns, np.zeros(4, int), samples=7)
    np.testing.assert_allclose(found, np.full((7, 2), 0.5))


def test_flipped_samples_equal_a_loop(tmp_path: Path) -> None:
    cases = {"a": random_answers(1, 0.6), "b": random_answers(2, 0.7), "c": random_answers(3, 0.8)}
    cases["b"].student[3] = -1  # abstains
    table = compare(loaded(tmp_path, **cases))["flipped"]
    expected = []
    for place, name in enumerate(cases["a"].ids):
        truth = cases["a"].truth[place]
        hits = [bool(one.student[place] == truth) for one in cases.values()]
        if 0 < sum(hits) < 3:
            answers = [one.student[place] for one in cases.values()]
            labels_shown = [None if answer < 0 else CLASSES[answer] for answer in answers]
            where = DOMAINS[place * 2 // len(cases["a"].ids)]
            cells = [cell for pair in zip(labels_shown, hits, strict=True) for cell in pair]
            expected.append([0, name, CLASSES[truth], where, sum(hits), *cells])
    columns = [f"{name} {what}" for name in cases for what in ("label", "correct")]
    assert list(table.columns) == ["seed", "sample_id", "true_label", "domain", "right", *columns]
    found = table.astype(object).where(table.notna(), None).to_numpy().tolist()
    assert found == expected


def test_classes_and_domains_equal_a_loop(tmp_path: Path) -> None:
    cases = {"a": random_answers(1, 0.6), "b": random_answers(2, 0.7)}
    tables = compare(loaded(tmp_path, **cases))
    for row in tables["classes"].to_dict("records"):
        chosen = cases["a"].truth == CLASSES.index(row["class"])
        assert row["samples"] == chosen.sum()
        for name, one in cases.items():
            assert row[name] == pytest.approx(right(one)[chosen].mean())
    half = len(cases["a"].ids) // 2
    means = [right(cases["a"])[:half].mean(), right(cases["a"])[half:].mean()]
    assert tables["domains"]["a"].tolist() == pytest.approx([*means, sum(means) / 2])
    assert tables["domains"]["domain"].tolist() == [*DOMAINS, "mean over domains"]


def test_the_mean_over_domains_weights_them_equally(tmp_path: Path) -> None:
    """Domains of 240, 120 and 40 samples: accuracies equal a plain groupby."""
    sizes = {"photo": 240, "sketch": 120, "clip": 40}
    where = np.repeat(list(sizes), list(sizes.values()))
    cases = {"a": random_answers(1, 0.6, samples=400), "b": random_answers(2, 0.7, samples=400)}
    for name, one in cases.items():
        samples = make_run(tmp_path / name, one) / "samples.parquet"
        pd.read_parquet(samples).assign(domain=pd.Categorical(where)).to_parquet(samples)
    table = compare(entries_in([tmp_path / name for name in cases]))["domains"].set_index("domain")
    assert table["samples"].tolist() == [40, 240, 120, 400]
    for name, one in cases.items():
        by_domain = pd.Series(right(one)).groupby(where).mean()
        np.testing.assert_allclose(table[name][:-1], by_domain[table.index[:-1]])
        assert table[name].iloc[-1] == pytest.approx(by_domain.mean())
        assert abs(table[name].iloc[-1] - right(one).mean()) > 1e-4


def test_a_single_domain_has_no_mean(tmp_path: Path) -> None:
    cases = {
        "a": random_answers(1, 0.6, domains=("all",)),
        "b": random_answers(2, 0.7, domains=("all",)),
    }
    assert compare(loaded(tmp_path, **cases))["domains"]["domain"].tolist() == ["all"]


def test_only_settings_that_differ_are_shown(tmp_path: Path) -> None:
    cases = {
        "a": random_answers(1, 0.6, config={"rounds.loss": {"name": "x", "temperature": 0.5}}),
        "b": random_answers(1, 0.6, config={"teachers.levels": [1, 2], "execution.device": "cuda"}),
        "c": random_answers(
            1, 0.6, environment={"packages": {"torch": "9"}, "working_directory": "/x"}
        ),
    }
    table = compare(loaded(tmp_path, **cases))["config"]
    assert list(table.columns) == ["key", "origin", "a", "b", "c"]
    no = "(not there)"
    assert table.to_numpy().tolist() == [
        ["rounds.loss.name", "set", '"x"', '"cross_entropy"', '"cross_entropy"'],
        ["rounds.loss.temperature", "set", "0.5", no, no],
        ["teachers.levels", "set", no, "[1, 2]", no],
        ["environment.packages.torch", "environment", no, no, '"9"'],
    ]


def test_the_order_of_samples_and_classes_has_no_effect(tmp_path: Path) -> None:
    first, second = random_answers(1, 0.6), random_answers(2, 0.8)
    plain = compare(loaded(tmp_path / "plain", first=first, second=second))
    order = np.random.default_rng(0).permutation(len(first.ids))
    mixed = replace(
        second.select(order).reorder_classes(["zebra", *reversed(CLASSES)]), domains=DOMAINS
    )
    other = compare(loaded(tmp_path / "other", first=first, second=mixed))
    for name in ("pairs", "classes", "domains", "flipped"):
        one, two = (tables[name].astype(object) for tables in (plain, other))
        pd.testing.assert_frame_equal(one, two)


def test_without_a_ceiling_there_is_no_pgr(tmp_path: Path) -> None:
    cases = {"a": random_answers(1, 0.6), "b": replace(random_answers(2, 0.8), ceiling=None)}
    tables = compare(loaded(tmp_path, **cases))
    assert tables["runs"]["pgr"].notna().tolist() == [True, False]
    empty = ["pgr_difference", "pgr_low", "pgr_high"]
    assert tables["pairs"][empty].isna().all(axis=None)
    assert np.isfinite(tables["pairs"]["low"]).all()


def test_p_values_are_corrected_for_the_number_of_pairs(tmp_path: Path) -> None:
    cases = {name: random_answers(seed, 0.55 + seed / 10) for seed, name in enumerate("abcd")}
    table = compare(loaded(tmp_path, **cases))["pairs"]
    found = [(pair["baseline"], pair["run"]) for pair in table.to_dict("records")]
    assert found == list(combinations("abcd", 2))
    assert (table["p_corrected"] >= table["p_value"]).all()
    assert table["p_corrected"].min() == pytest.approx(6 * table["p_value"].min())


@pytest.mark.parametrize(
    ("values", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.6], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_worked_by_hand(values: list[float], corrected: list[float]) -> None:
    assert holm(values) == pytest.approx(corrected)


def test_curves_are_the_recorded_scalars(tmp_path: Path) -> None:
    scalars = [("round_1/loss", 1, 0.5), ("round_1/loss", 50, None)]
    cases = {"a": random_answers(1, 0.6, scalars=scalars), "b": random_answers(1, 0.6)}
    table = compare(loaded(tmp_path, **cases))["curves"]
    assert table[["run", "tag", "step"]].to_numpy().tolist() == [
        ["a", "round_1/loss", 1],
        ["a", "round_1/loss", 50],
    ]
    assert table["value"].isna().tolist() == [False, True]


def test_labels_are_the_shortest_distinct_paths(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / name, random_answers(1, 0.5)) for name in ("x/seed-0", "y/seed-0", "z")
    ]
    entries = entries_in(folders)
    assert labels(entries[1:]) == ["seed-0", "z"]
    assert labels(entries[:2]) == ["x/seed-0", "y/seed-0"]


def test_a_directory_of_runs_is_expanded(tmp_path: Path) -> None:
    loaded(tmp_path, one=random_answers(1, 0.5), two=random_answers(2, 0.5))
    assert [entry.path.name for entry in entries_in([tmp_path])] == ["one", "two"]
    with pytest.raises(UserError) as caught:
        entries_in(["memory://a/b", tmp_path])
    assert caught.value.where == "memory://a/b"


def refused(runs: list[Entry]) -> UserError:
    with pytest.raises(UserError) as caught:
        compare(runs)
    assert "\n" not in str(caught.value)
    return caught.value


def test_fewer_than_two_runs_and_duplicates_are_refused(tmp_path: Path) -> None:
    (run,) = loaded(tmp_path, a=random_answers(1, 0.5))
    for runs in ([], [run]):
        assert "two finished runs" in str(refused(runs).allowed)
    (tmp_path / "link").symlink_to(run.path)
    assert refused([run, *entries_in([tmp_path / "link"])]).where == str(tmp_path / "link")


def test_unfinished_runs_are_refused_with_their_missing_stages(tmp_path: Path) -> None:
    (good,) = loaded(tmp_path, a=random_answers(1, 0.5))
    (cut,) = entries_in([make_run(tmp_path / "cut", random_answers(1, 0.5), finished=False)])
    error = refused([good, cut])
    assert error.where == str(cut.path)
    assert "control ceiling and summary" in error.problem
    shutil.copytree(good.path, tmp_path / "old")
    (tmp_path / "old" / "stages" / "prepared.json").unlink()
    assert "samples.parquet" in refused([good, *entries_in([tmp_path / "old"])]).problem


def test_runs_on_different_samples_are_refused_with_counts(tmp_path: Path) -> None:
    first = random_answers(1, 0.5)
    fewer = replace(first.select(np.arange(200)), config={"data.limit": 200})
    other = replace(first, ids=[f"other {name}" for name in first.ids], config={"run.seed": 1})
    unlike = replace(first, truth=np.where(np.arange(240) < 7, (first.truth + 1) % 3, first.truth))
    runs = loaded(tmp_path, first=first, fewer=fewer, other=other, unlike=unlike)
    error = refused(runs[:2])
    assert error.where == "runs first and fewer"
    for words in ("40 of 240", "data.limit null and 200"):
        assert words in error.problem
    error = refused([runs[0], runs[2]])
    for words in ("240 of 240", "240 others", "run.seed 0 and 1"):
        assert words in error.problem
    assert "7 of 240" in refused([runs[0], runs[3]]).problem


def test_episodes_must_be_the_same_in_the_same_order(tmp_path: Path) -> None:
    first = random_answers(1, 0.5)
    queries = replace(first, ids=[f"{place % 50}" for place in range(240)])
    order = np.roll(np.arange(240), 1)
    runs = loaded(tmp_path, a=queries, b=queries.select(order), c=queries)
    assert refused(runs[:2]).where == "runs a and b"
    assert compare([runs[0], runs[2]])["pairs"]["difference"].tolist() == [0.0]
    assert compare([runs[0], runs[2]])["pairs"]["p_value"].tolist() == [1.0]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    runs = loaded(tmp_path, a=random_answers(1, 0.5), b=random_answers(2, 0.5))
    (tmp_path / "b" / "samples.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RunError, match=r"b/samples\.parquet"):
        compare(runs)
