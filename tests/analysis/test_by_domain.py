"""Accuracy by supervision and domain, and its mean over domains, against a plain groupby of the
recorded predictions; and where there is none."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest
from helpers.made_run import CONTROLS, Shape, make_run

from cosup.analysis import findings, load_run, tables
from cosup.analysis.domains import MEAN, supervision_domains_table
from cosup.analysis.figure import Unavailable

DOMAINS = ("photo", "sketch", "clip<art>")
WHO = ["kind", "who"]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains, of which one has few test samples: the mean over domains is another than the
    accuracy over all."""
    path = make_run(tmp_path_factory.mktemp("three") / "run", Shape(domains=DOMAINS))
    return moved(path, lambda place: DOMAINS[min(place % 8, 2)])


def moved(path: Path, domain_of: Callable[[int], str]) -> Path:
    """The run, with test samples in the domains that a function of their place says."""
    table = pd.read_parquet(path / "samples.parquet")
    test = np.flatnonzero(table["split"] == "test")
    names = list(table["domain"].cat.categories)
    column = table["domain"].astype(str).to_numpy(object)
    column[test] = [domain_of(place) for place in range(len(test))]
    table["domain"] = pd.Categorical(column, categories=names)
    table.to_parquet(path / "samples.parquet", index=False)
    return path


def predictions(path: Path) -> pd.DataFrame:
    """Who is right on which test sample, a row each, read by plain means."""
    said = {("student", "student"): plain.student(path, 2)[0]}
    said |= {("control", name): plain.control(path, name)[0] for name in CONTROLS}
    for entry in plain.read(path, "stages/prepared")["teachers"]:
        said["teacher", entry["name"]] = plain.annotations(path, "test", entry["name"])
    test = plain.samples(path, "test")
    parts = [
        test.assign(kind=kind, who=who, right=np.array(labels) == test["answer"].to_numpy())
        for (kind, who), labels in said.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_accuracies_are_those_of_a_groupby(three: Path) -> None:
    found = tables(load_run(three))
    table = found["supervision_domains"]
    keys = [*WHO, "domain"]
    grouped = predictions(three).groupby(keys)["right"].agg(["mean", "size"])
    own = table[table["domain"] != MEAN].astype(dict.fromkeys(keys, str)).set_index(keys)
    assert len(own) == len(grouped) == (1 + len(CONTROLS) + 3) * 3
    pd.testing.assert_series_equal(own["accuracy"], grouped["mean"][own.index], check_names=False)
    assert own["samples"].tolist() == grouped["size"][own.index].tolist()
    # Supervisions stand in the overview's order, and the mean ends each.
    order = table.drop_duplicates(WHO)[WHO].astype(str).to_numpy().tolist()
    assert order == found["overview"][WHO].astype(str).to_numpy().tolist()
    assert table["domain"].astype(str).tolist() == [*DOMAINS, MEAN] * len(order)


def test_the_mean_counts_each_domain_alike(three: Path) -> None:
    table = supervision_domains_table(load_run(three))
    said = predictions(three)
    expected = said.groupby([*WHO, "domain"])["right"].mean().groupby(WHO).mean()
    means = table[table["domain"] == MEAN].astype(dict.fromkeys(WHO, str)).set_index(WHO)
    np.testing.assert_allclose(means["accuracy"], expected[means.index])
    assert set(means["samples"]) == {len(plain.samples(three, "test"))}
    over_all = said.groupby(WHO)["right"].mean()
    assert ((expected - over_all).abs() > 0.01).sum() > 3, "a sample's mean would be another"


def test_a_domain_without_a_test_sample_is_left_out(three: Path, tmp_path: Path) -> None:
    shutil.copytree(three, tmp_path / "run")
    run = load_run(moved(tmp_path / "run", lambda place: DOMAINS[place % 2]))
    table = supervision_domains_table(run)
    assert set(table["domain"]) == {*DOMAINS[:2], MEAN}
    part = table[table["kind"] == "student"]["accuracy"].tolist()
    assert part[2] == pytest.approx((part[0] + part[1]) / 2)
    shutil.copytree(three, tmp_path / "one")
    with pytest.raises(Unavailable, match="one domain alone"):
        supervision_domains_table(load_run(moved(tmp_path / "one", lambda _: DOMAINS[1])))


@pytest.mark.parametrize("shape", [Shape(domains=("all",)), Shape(ways=3, test=60)])
def test_one_domain_alone_has_no_table(tmp_path: Path, shape: Shape) -> None:
    """Episodes too."""
    run = load_run(make_run(tmp_path / "run", shape))
    found = tables(run)
    assert run.absent["supervision_domains"] == "what measures is of one domain alone"
    assert "supervision_domains" not in findings(run, found)


def test_an_unfinished_run_has_the_supervisions_that_it_has(tmp_path: Path) -> None:
    table = supervision_domains_table(load_run(make_run(tmp_path / "run", Shape(rounds=1))))
    assert set(table["kind"]) == {"student", "teacher"}
    with pytest.raises(Unavailable, match="no round"):
        supervision_domains_table(load_run(make_run(tmp_path / "none", Shape(rounds=0))))


def test_a_domain_may_be_called_as_the_mean_is(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", Shape(domains=("photo", MEAN))))
    table = supervision_domains_table(run)
    part = table[table["kind"] == "student"]["accuracy"].tolist()
    assert part[2] == pytest.approx((part[0] + part[1]) / 2)
