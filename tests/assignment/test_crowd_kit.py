"""Aggregators of crowd-kit as assigners: its posteriors, other samples, and what is refused."""

import dataclasses
import sys
from functools import cache
from typing import get_args, get_type_hints

import pandas as pd
import pytest
import torch
from assignment_cases import assign, random_case
from crowdkit.aggregation.classification import GLAD, MACE, MajorityVote, OneCoinDawidSkene
from helpers.user_errors import error_of
from torch import Tensor
from torch.nn.functional import one_hot

from cosup.assignment import CrowdKit
from cosup.assignment.crowd_kit import AGGREGATORS, aggregated
from cosup.evidence import Evidence, Scopes
from cosup.levels import ArrayAnnotations, Level
from cosup.probabilities import ProbTable
from cosup.settings.assigners import CrowdKitSettings
from cosup.team import ask_team

ACCURACY = (0.9, 0.75, 0.6, 0.35)
SCOPES = Scopes.of([None] * 4, 4)


def answers(count: int = 240, silent: float = 0.2) -> tuple[Tensor, Tensor]:
    """True classes [N] of 4, and answers [N, 4] of teachers of known accuracy, -1 for none.

    The first samples are answered by all, in the order of the classes: crowd-kit's MACE then reads
    the labels as they are meant.
    """
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(count) % 4
    draws = torch.rand(2, count, 4, generator=generator)
    wrong = (truth[:, None] + torch.randint(1, 4, (count, 4), generator=generator)) % 4
    labels = torch.where(draws[0] < torch.tensor(ACCURACY), truth[:, None], wrong)
    labels[draws[1] < silent] = -1
    labels[:4] = torch.arange(4)[:, None]
    return truth, labels


def evidence_of(labels: Tensor) -> Evidence:
    annotations = one_hot(labels.clamp_min(0), 4).float() * (labels >= 0)[..., None]
    return Evidence(torch.full((len(labels), 4), 0.25), annotations)


def crowd_kits(method: str, labels: Tensor) -> Tensor:
    """The posterior [N, C] of crowd-kit from a table in the order of samples and teachers."""
    task, worker = (labels >= 0).nonzero().T
    columns = {
        "task": task.numpy(),
        "worker": worker.numpy(),
        "label": labels[task, worker].numpy(),
    }
    table = pd.DataFrame(columns)
    if method == "wawa":  # weights: agreement with the majority
        majority = MajorityVote().fit_predict(table)
        agrees = table["label"].to_numpy() == majority.loc[table["task"]].to_numpy()
        skills = pd.Series(agrees).groupby(table["worker"]).mean()
        found = MajorityVote().fit_predict_proba(table, skills=skills)
    else:
        # Two of MACE's ten starts: each takes seconds, and they end alike on these answers.
        models = {"one_coin": OneCoinDawidSkene(), "mace": MACE(n_restarts=2), "glad": GLAD()}
        found = models[method].fit_predict_proba(table)
    posterior = torch.zeros(len(labels), 4)
    posterior[torch.tensor(found.index.to_numpy())] = torch.tensor(found.to_numpy()).float()
    return posterior


@cache
def of_sixty(method: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the true classes and answers of 60 samples, and the posterior of a method.

    Nobody answers sample 7.
    """
    truth, labels = answers(60)
    labels[7] = -1
    return truth, labels, aggregated(labels, 4, method, seed=3)


@pytest.mark.parametrize("method", ["one_coin", "mace", "glad", "wawa"])
def test_the_posterior_is_crowd_kits(method: str) -> None:
    _, labels, found = of_sixty(method)
    assert (found[7] == 0).all()
    # EM of MACE starts elsewhere, and is stopped after 50 steps.
    close = 0.02 if method == "mace" else 1e-4
    torch.testing.assert_close(found, crowd_kits(method, labels), atol=close, rtol=close)


@pytest.mark.parametrize("method", list(AGGREGATORS))
def test_neither_the_order_of_teachers_nor_that_of_samples_matters(method: str) -> None:
    truth, labels, found = of_sixty(method)
    assert float((found.argmax(1) == truth).float().mean()) > 0.75
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    other = aggregated(labels[order][:, [2, 0, 3, 1]], 4, method, seed=3)
    torch.testing.assert_close(other, found[order], atol=1e-4, rtol=1e-4)


def test_methods_are_those_of_the_settings() -> None:
    assert get_args(get_type_hints(CrowdKitSettings)["method"]) == tuple(AGGREGATORS)
    assert error_of(CrowdKitSettings, "kos").key == ("method",)


def test_it_tells_who_is_right_and_answers_samples_of_its_fit_and_others() -> None:
    truth, labels = answers()
    evidence = evidence_of(labels)
    kit = CrowdKit()
    kit.fit([evidence], SCOPES)
    assert kit.accuracy_ is not None
    torch.testing.assert_close(kit.accuracy_, torch.tensor(ACCURACY), atol=0.1, rtol=0)
    found = kit.assign(evidence, SCOPES)
    heard = (labels >= 0).any(1)
    assert (found.labels[~heard] == -1).all()
    vote = torch.where(labels >= 0, 1.0, 0.0)
    majority = (one_hot(labels.clamp_min(0), 4) * vote[..., None]).sum(1).argmax(1)
    right = (found.labels == truth)[heard].float().mean()
    assert float(right) > float((majority == truth)[heard].float().mean()) + 0.02
    # The most accurate of those who gave the class has the most weight.
    both = (labels[:, 0] == labels[:, 1]) & (labels[:, 0] == found.labels)
    assert (found.weights[both, 0] > found.weights[both, 1]).all()
    # The one-coin model of crowd-kit is the one that answers others.
    restored = CrowdKit()
    restored.load_state_dict(kit.state_dict())
    level = Level(0, SCOPES, ArrayAnnotations(evidence.annotations))
    asked = ask_team(restored, level, ProbTable.compress(evidence.student_probs))
    torch.testing.assert_close(asked.probs.dense(), found.targets, atol=0.02, rtol=0.02)
    assert (asked.probs.dense()[~heard] == 0).all()


def test_answers_of_one_class_alone() -> None:
    labels = torch.tensor([[2, -1], [2, 2], [-1, -1]])
    found = aggregated(labels, 4, "one_coin", seed=0)
    assert found.tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_without_crowd_kit_an_answer_or_room_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = random_case(0, 4, 2, 4)
    silent = dataclasses.replace(case.evidence, annotations=torch.zeros(4, 2, 4))
    assert "annotated" in str(error_of(CrowdKit().fit, [silent], case.scopes))
    monkeypatch.setattr("cosup.assignment.crowd_kit.MOST_VALUES", 15)
    assert "dawid_skene" in str(error_of(CrowdKit().fit, [case.evidence], case.scopes))
    kit = CrowdKit()
    monkeypatch.setattr("cosup.assignment.crowd_kit.MOST_VALUES", 16)
    kit.fit([case.evidence], case.scopes)
    monkeypatch.setitem(sys.modules, "crowdkit", None)
    for call in (
        lambda: CrowdKit().check(case.scopes),
        lambda: CrowdKit().fit([case.evidence], case.scopes),
    ):
        assert "pip install 'cosup[crowd]'" in str(error_of(call))
    # A fitted one, of an exported team, needs no library.
    assert assign(kit.elsewhere(), case.evidence, case.scopes).shape == (4, 2)
