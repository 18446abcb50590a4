"""Simulated annotators answer as their settings say, by sample, whatever else is in the run."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.user_errors import key_of, mistakes_of
from teachers.teacher_helpers import teachers_section

from cosup.config import check_config
from cosup.config.external import ExternalSection
from cosup.data.table import ImageData
from cosup.errors import UserError
from cosup.teachers.annotate import annotate_rows
from cosup.teachers.base import Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.teachers.simulated import Labelled, SimulatedTeacher, simulate
from cosup.teachers.train import check_teachers, train_level

CLASSES, DOMAINS = ("cat", "dog", "owl"), ("day", "night")
COUNT = 30_000


def labelled(count: int = COUNT) -> Labelled:
    """Return samples of each class in each domain, in turn."""
    number = np.arange(count)
    ids = [f"s{n}" for n in number]
    return Labelled(ids, number % 3, number // 3 % 2, CLASSES, DOMAINS)


def external(name: str = "ann", scope: dict[str, Any] | None = None, **simulate: Any) -> Any:
    settings = {"accuracy": 0.7, **simulate}
    return ExternalSection.model_validate(
        {"name": name, "scope": scope or {}, "simulate": settings}
    )


def right(given: np.ndarray[Any, Any], samples: Labelled, where: Any = True) -> float:
    spoken = (given >= 0) & where
    return float((given == samples.labels)[spoken].mean())


def test_accuracy_and_coverage_are_those_asked_for() -> None:
    samples = labelled()
    given = simulate(external(accuracy=0.7, coverage=0.8), samples)
    # 4 standard deviations of the mean over 30,000 (and 24,000) samples
    assert (given >= 0).mean() == pytest.approx(0.8, abs=0.01)
    assert right(given, samples) == pytest.approx(0.7, abs=0.012)
    wrong = given[(given >= 0) & (given != samples.labels) & (samples.labels == 0)]
    assert (wrong == 1).mean() == pytest.approx(0.5, abs=0.04)  # dogs and owls alike


def test_classes_and_domains_have_their_own_accuracy() -> None:
    samples = labelled()
    given = simulate(external(classes={"dog": 0.2}, domains={"night": 0.95}), samples)
    day, dog = samples.domains == 0, samples.labels == 1
    assert right(given, samples, day & ~dog) == pytest.approx(0.7, abs=0.02)
    assert right(given, samples, day & dog) == pytest.approx(0.2, abs=0.03)
    assert right(given, samples, ~day & dog) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("accuracy", [0, 1])
def test_the_limits_are_exact(accuracy: float) -> None:
    samples = labelled(300)
    given = simulate(external(accuracy=accuracy), samples)
    assert right(given, samples) == accuracy


@pytest.mark.parametrize(
    ("confuses", "wrong"),
    [("next", [1, 2, 0]), ({"cat": "owl", "dog": "owl", "owl": "dog"}, [2, 2, 1])],
)
def test_wrong_answers_are_the_confused_class(confuses: Any, wrong: list[int]) -> None:
    samples = labelled(300)
    given = simulate(external(accuracy=0, confuses=confuses), samples)
    assert (given == np.array(wrong)[samples.labels]).all()


def test_an_answer_depends_on_the_sample_and_the_name_alone() -> None:
    samples = labelled(3000)
    given = simulate(external(), samples)
    order = np.random.default_rng(0).permutation(3000)[:1000]
    part = Labelled(
        [samples.sample_ids[n] for n in order],
        samples.labels[order],
        samples.domains[order],
        CLASSES,
        DOMAINS,
    )
    assert (simulate(external(), part) == given[order]).all()
    for other in (external("bob"), external(seed=1)):
        errs, errs_too = given != samples.labels, simulate(other, samples) != samples.labels
        # independent errors: 4 standard deviations of a correlation over 3,000 samples
        assert abs(np.corrcoef(errs, errs_too)[0, 1]) < 4 / np.sqrt(3000)


def test_copies_repeat_the_answers_of_another() -> None:
    samples = labelled()
    ann = simulate(external(coverage=0.5), samples)
    whole = external("bob", accuracy=0, copies={"of": "ann", "share": 1})
    bob = simulate(whole, samples, ann)
    assert (bob == ann)[ann >= 0].all()
    assert right(bob, samples, ann < 0) == 0
    half = external("bob", accuracy=0, copies={"of": "ann", "share": 0.5})
    assert right(simulate(half, samples, samples.labels), samples) == pytest.approx(0.5, abs=0.012)


def test_it_abstains_outside_its_scope_and_without_a_label() -> None:
    samples = labelled(600)
    unknown = Labelled(samples.sample_ids, np.full(600, -1), samples.domains, CLASSES, DOMAINS)
    assert (simulate(external(), unknown) == -1).all()
    scope = {"class": ["cat", "owl"], "domain": "day"}
    given = simulate(external(scope=scope, accuracy=0.5), samples)
    inside = (samples.labels != 1) & (samples.domains == 0)
    assert ((given >= 0) == inside).all()
    assert set(given[inside]) == {0, 2}


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        ({"classes": {"cta": 0.5}}, "simulate.class", "cta"),
        ({"domains": {"dawn": 0.5}}, "simulate.domain", "dawn"),
        ({"confuses": {"cat": "cat"}}, "simulate.confuses", "cat"),
        ({"confuses": {"cat": "elk"}}, "simulate.class", "elk"),
        ({"scope": {"class": "cat"}, "confuses": {"cat": "owl"}}, "simulate.confuses", "owl"),
    ],
)
def test_unknown_names_are_refused(settings: dict[str, Any], key: str, value: str) -> None:
    with pytest.raises(UserError) as caught:
        simulate(external(**settings), labelled(6))
    assert ".".join(caught.value.key).startswith(key.split(".")[0])
    assert caught.value.value == value


def crew() -> list[dict[str, Any]]:
    return [
        {"name": "ada", "simulate": {"accuracy": 0.8, "coverage": 0.5, "seed": 3}},
        {"name": "bob", "simulate": {"accuracy": 0.6, "copies": {"of": "ada", "share": 0.5}}},
    ]


def training_of(data: ImageData, features: FeatureCache) -> Training:
    return Training(teachers_section(hierarchy=None, external=crew()), data, 0, features)


def test_as_teachers_they_annotate_every_split(data: ImageData, features: FeatureCache) -> None:
    training = training_of(data, features)
    (level,) = plan_hierarchy(training.section, data.classes, data.domains, 0)
    check_teachers([level], training)
    teachers = train_level(level, training)
    assert [type(teacher) for teacher in teachers] == [SimulatedTeacher] * 2
    everything = np.arange(len(data))
    for split in ("student_train", "test"):
        rows = data.rows(split)
        for teacher in teachers:
            (table,) = annotate_rows([teacher], data, rows, features.compute)
            answers = teacher.answers[torch.from_numpy(rows)]
            assert (table.dense().argmax(1)[answers >= 0] == answers[answers >= 0]).all()
            assert (table.dense().sum(1) == (answers >= 0)).all()
    again = SimulatedTeacher.restore(level[1], training, {}, 0)
    assert again.identity == teachers[1].identity
    assert (again.answers == teachers[1].answers).all()
    assert len(everything) == len(again.answers)
    assert teachers[0].identity != teachers[1].identity


def test_they_need_true_labels(data: ImageData, features: FeatureCache) -> None:
    unlabelled = data.table.assign(label=-1)
    training = training_of(
        ImageData(unlabelled, data.classes, data.domains, data.images, "x"), features
    )
    (level,) = plan_hierarchy(training.section, data.classes, data.domains, 0)
    with pytest.raises(UserError) as caught:
        check_teachers([level], training)
    assert caught.value.key == ("teachers", "external")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ([{"name": "a", "simulate": {"accuracy": 1.2}}], "simulate.accuracy"),
        ([{"name": "a", "simulate": {"accuracy": 0.5, "coverage": 0}}], "simulate.coverage"),
        ([{"name": "a", "simulate": {"accuracy": 0.5, "classes": {3: -1}}}], "simulate.classes.3"),
        ([{"name": "a", "simulate": {"accuracy": 0.5}, "annotations": "a.csv"}], "annotations"),
        ([{"name": "a"}], "annotations"),
        ([{"name": "a", "simulate": {"accuracy": 0.5}, "missing": "abstain"}], "missing"),
        (crew()[::-1], "simulate.copies.of"),
        (
            [{"name": "a", "simulate": {"accuracy": 1, "copies": {"of": "a", "share": 1}}}],
            "simulate.copies.of",
        ),
    ],
)
def test_mistakes_of_the_config(changes: list[dict[str, Any]], key: str) -> None:
    tree = {
        "data": {"source": "digits"},
        "teachers": {"external": changes},
        "student": {"backbone": {"name": "resnet18", "weights": None}},
    }
    keys = {key_of(error) for error in mistakes_of(check_config, tree, "c.yaml", ())}
    assert f"teachers.external.0.{key}" in keys
