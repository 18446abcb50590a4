"""Accuracy by supervision and domain equals a plain groupby of the recorded predictions.

Its mean over domains is not weighted by samples, and the table is absent for a single domain.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest
from helpers.synthetic_run import CONTROLS, Shape, make_run

from cosup.analysis import findings, load_run, tables
from cosup.analysis.figure import Unavailable
from cosup.analysis.supervision_domains import MEAN, supervision_domains_table

DOMAINS = ("photo", "sketch", "clip<art>")
WHO = ["kind", "who"]


@pytest.fixture(scope="module")
def three_domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with three domains, one with few test samples, so that the mean over domains differs
    from the accuracy over all samples."""
    path = make_run(tmp_path_factory.mktemp("three") / "run", Shape(domains=DOMAINS))
    return with_test_domains(path, lambda place: DOMAINS[min(place % 8, 2)])


def with_test_domains(path: Path, domain_of: Callable[[int], str]) -> Path:
    """Replace the domain of each test sample by `domain_of` its position; return the path."""
    table = pd.read_parquet(path / "samples.parquet")
    test = np.flatnonzero(table["split"] == "test")
    names = list(table["domain"].cat.categories)
    column = table["domain"].astype(str).to_numpy(object)
    column[test] = [domain_of(place) for place in range(len(test))]
    table["domain"] = pd.Categorical(column, categories=names)
    table.to_parquet(path / "samples.parquet", index=False)
    return path


def predictions(path: Path) -> pd.DataFrame:
    """Return a row per supervision and test sample, read without cosup, with `right`."""
    labels_of = {("student", "student"): plain.student(path, 2)[0]}
    labels_of |= {("control", name): plain.control(path, name)[0] for name in CONTROLS}
    for entry in plain.read(path, "stages/prepared")["teachers"]:
        labels_of["teacher", entry["name"]] = plain.annotations(path, "test", entry["name"])
    test = plain.samples(path, "test")
    parts = [
        test.assign(kind=kind, who=who, right=np.array(labels) == test["answer"].to_numpy())
        for (kind, who), labels in labels_of.items()
    ]
    found = pd.concat(parts, ignore_index=True)
    said = np.concatenate([np.array(labels) for labels in labels_of.values()])
    return found[(said != "") | (found["kind"] != "teacher")]


def test_accuracies_equal_a_groupby(three_domains: Path) -> None:
    found = tables(load_run(three_domains))
    table = found["supervision_domains"]
    keys = [*WHO, "domain"]
    grouped = predictions(three_domains).groupby(keys)["right"].agg(["mean", "size"])
    own = table[table["domain"] != MEAN].astype(dict.fromkeys(keys, str)).set_index(keys)
    assert len(own) == len(grouped) == (1 + len(CONTROLS) + 3) * 3
    pd.testing.assert_series_equal(own["accuracy"], grouped["mean"][own.index], check_names=False)
    students = own.loc["student"]  # who answers all samples
    assert students["samples"].tolist() == grouped["size"].loc["student"][students.index].tolist()
    # Supervisions have the overview's order; the mean is the last row of each.
    order = table.drop_duplicates(WHO)[WHO].astype(str).to_numpy().tolist()
    assert order == found["overview"][WHO].astype(str).to_numpy().tolist()
    assert table["domain"].astype(str).tolist() == [*DOMAINS, MEAN] * len(order)


def test_the_mean_weights_domains_equally(three_domains: Path) -> None:
    table = supervision_domains_table(load_run(three_domains))
    predicted = predictions(three_domains)
    expected = predicted.groupby([*WHO, "domain"])["right"].mean().groupby(WHO).mean()
    means = table[table["domain"] == MEAN].astype(dict.fromkeys(WHO, str)).set_index(WHO)
    np.testing.assert_allclose(means["accuracy"], expected[means.index])
    assert set(means["samples"]) == {len(plain.samples(three_domains, "test"))}
    over_all = predicted.groupby(WHO)["right"].mean()
    assert ((expected - over_all).abs() > 0.01).sum() > 3, "the mean over samples would be equal"


def test_a_domain_without_test_samples_is_omitted(three_domains: Path, tmp_path: Path) -> None:
    shutil.copytree(three_domains, tmp_path / "run")
    run = load_run(with_test_domains(tmp_path / "run", lambda place: DOMAINS[place % 2]))
    table = supervision_domains_table(run)
    assert set(table["domain"]) == {*DOMAINS[:2], MEAN}
    part = table[table["kind"] == "student"]["accuracy"].tolist()
    assert part[2] == pytest.approx((part[0] + part[1]) / 2)
    shutil.copytree(three_domains, tmp_path / "one")
    with pytest.raises(Unavailable, match="one domain alone"):
        supervision_domains_table(
            load_run(with_test_domains(tmp_path / "one", lambda _: DOMAINS[1]))
        )


@pytest.mark.parametrize("shape", [Shape(domains=("all",)), Shape(ways=3, test=60)])
def test_a_single_domain_has_no_table(tmp_path: Path, shape: Shape) -> None:
    """Few-shot episodes have a single domain as well."""
    run = load_run(make_run(tmp_path / "run", shape))
    found = tables(run)
    assert run.absent["supervision_domains"] == "what measures is of one domain alone"
    assert "supervision_domains" not in findings(run, found)


def test_an_unfinished_run_has_student_and_teachers(tmp_path: Path) -> None:
    table = supervision_domains_table(load_run(make_run(tmp_path / "run", Shape(rounds=1))))
    assert set(table["kind"]) == {"student", "teacher"}
    with pytest.raises(Unavailable, match="no round"):
        supervision_domains_table(load_run(make_run(tmp_path / "none", Shape(rounds=0))))


def test_a_domain_may_have_the_name_of_the_mean(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", Shape(domains=("photo", MEAN))))
    table = supervision_domains_table(run)
    part = table[table["kind"] == "student"]["accuracy"].tolist()
    assert part[2] == pytest.approx((part[0] + part[1]) / 2)
